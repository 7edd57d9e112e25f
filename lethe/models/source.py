"""The folder that a pipeline came in, and how it goes out again: copied, with only what moved replaced.

Every file goes out byte for byte, except the network's weights. Of these, a file in which nothing moved stays as it is, too; in
the others the moved tensors are replaced, in the file's own precision, shards and all. Two kinds of file are left out, for they
still hold the network as it was: its weights in forms that cannot be edited here (.bin, .ckpt, .onnx, weights from before
averaging), and whole pipelines in one file beside the folders.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.errors import ModelError, PickleRefused

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
OTHER_WEIGHTS = (*PICKLES, ".safetensors", ".msgpack", ".h5", ".onnx", ".onnx_data", ".pb", ".xml", ".mlmodelc", ".gguf")
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
NAMED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
         "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool}   # as safetensors files call them
NOT_PART = (".git", ".cache", "__pycache__")   # histories and caches, which may hold the weights as they were


@dataclass(frozen=True)
class Source:
    """Where a pipeline was opened.

    folder   its folder          network  name of the subfolder of the network, unet or transformer
    variant  of the network's weights that were loaded, e.g. fp16; empty: the plain ones
    """

    folder: Path
    network: str
    variant: str = ""

    @property
    def weights(self) -> list[Path]:
        """The files of weights that were loaded."""
        return variants(self.folder / self.network)[self.variant]

    def dtypes(self) -> dict[str, torch.dtype]:
        """The precision of every tensor of the network in its file."""
        from safetensors import safe_open

        found: dict[str, torch.dtype] = {}
        for file in self.weights:
            with safe_open(file, "pt") as handle:
                found |= {name: NAMED.get(handle.get_slice(name).get_dtype(), torch.float32) for name in handle.keys()}  # noqa: SIM118
        return found


def variants(folder: Path) -> dict[str, list[Path]]:
    """Files of weights by variant, shards in order. ModelError when an index names shards that are missing."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        stem, _, variant = file.name.removesuffix(".safetensors").partition(".")
        stem, sharded, _ = stem.partition("-0")
        variant, inner, _ = variant.partition("-0")
        if stem in STEMS:
            found.setdefault(variant, []).append(file)
            _ = sharded or inner
    for index in sorted(folder.glob("*.index*.json")):
        named = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        missing = sorted(name for name in named if name.endswith(".safetensors") and not (folder / name).exists())
        if missing:
            raise ModelError(f"{index} names {len(missing)} files that are not there, {missing[0]} first, so the weights would "
                             "be incomplete or, where other files lie beside it, not those that are meant. Fetch the files, or "
                             "delete the index if it is left from an earlier version.")
    return found


def variant_of(folder: Path, wanted: str = "") -> str:
    """Which variant of the weights in a folder is loaded: the wanted one, the plain one, or the only one."""
    refuse_pickle(folder)
    there = variants(folder)
    if wanted in there:
        return wanted
    if "" in there and not wanted:
        return ""
    if len(there) == 1:
        return next(iter(there))
    raise ModelError(f"{folder} has weights of {len(there)} variants ({', '.join(sorted(there)) or 'none'}) and none that is "
                     f"{wanted or 'plain'}, so it is unclear which are meant. Set model.variant to one of them.")


def refuse_pickle(folder: Path) -> None:
    """PickleRefused when the weights in `folder` are pickles only; a folder that is absent passes."""
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise PickleRefused(f"{folder}/{pickles[0]} is a pickle, which can run code when it is loaded, and there is no "
                            "safetensors file beside it. Convert it in a safe place: load the pipeline with diffusers "
                            "there and call save_pretrained(folder, safe_serialization=True).")


def copy_with(source: Source, network: nn.Module, folder: Path, beside: Mapping[Source, nn.Module] | None = None) -> None:
    """The source folder in `folder`, with what moved in `network` replaced, and in the parts `beside` it."""
    parts = {source: network, **(beside or {})}
    loaded = {part: [(file, dict(tensors_of(file))) for file in part.weights] for part in parts}
    shutil.copytree(source.folder, folder, dirs_exist_ok=True, ignore=lambda where, names: _left_out(parts, Path(where), names))
    for part, module in parts.items():
        _replace(part, module, loaded[part], folder)


def copy_moved(source: Source, moved: Mapping[str, Tensor], folder: Path) -> None:
    """The source folder in `folder`, with these tensors in place of its own, file by file; one without any is copied as it is."""
    shutil.copytree(source.folder, folder, dirs_exist_ok=True,
                    ignore=lambda where, names: _left_out([source], Path(where), names))
    for file in source.weights:
        _rewrite(source, file, dict(tensors_of(file)), moved, folder)


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same numbers in another precision, down to half of one."""
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=2e-2, atol=1e-4)


def _replace(source: Source, network: nn.Module, loaded: list[tuple[Path, dict[str, Tensor]]], folder: Path) -> None:
    """Write the weights of one part: what moved, and what stays as the files have it."""
    place, state = source.folder / source.network, network.state_dict()
    if {name for _, tensors in loaded for name in tensors} != set(state):   # names of an older diffusers, renamed when loading
        cast_to = source.dtypes()
        kept: Any = network
        width = next(iter(set(cast_to.values()))) if len(set(cast_to.values())) == 1 else torch.float32
        kept.to(width).save_pretrained(folder / source.network, safe_serialization=True, variant=source.variant or None)
        return
    moved: dict[str, Tensor] = {}
    before: dict[str, Tensor] = {}
    for file, tensors in loaded:
        before |= tensors
        moved |= {name: state[name] for name in _rewrite(source, file, tensors, state, folder)}
    for variant, files in variants(place).items():
        if variant != source.variant and (twins := _same(files, before)) is not None:
            for file, tensors in twins:
                _rewrite(source, file, tensors, moved, folder)


def _rewrite(source: Source, file: Path, before: Mapping[str, Tensor], now: Mapping[str, Tensor], folder: Path) -> list[str]:
    """A file of weights in `folder` with tensors of `now` in place of its own; as it was where none differs. Those that do."""
    mine = {name: now[name].to("cpu", value.dtype) if name in now else value for name, value in before.items()}
    differ = [name for name, value in mine.items() if not torch.equal(value, before[name])]
    _write(file, folder / source.network / file.name, mine, bool(differ))
    return differ


def _same(files: list[Path], before: Mapping[str, Tensor]) -> list[tuple[Path, dict[str, Tensor]]] | None:
    """The tensors of another variant, file by file, if it is the same network in another precision; None: it is another one."""
    loaded = [(file, dict(tensors_of(file))) for file in files]
    if {name for _, tensors in loaded for name in tensors} != set(before):
        return None
    same = all(alike(value, before[name]) for _, tensors in loaded for name, value in tensors.items())
    return loaded if same else None


def _write(old: Path, new: Path, tensors: Mapping[str, Tensor], changed: bool) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    if not changed:
        shutil.copyfile(old, new)
        return
    with safe_open(old, "pt") as handle:
        metadata = handle.metadata()
    save_file({name: value.contiguous() for name, value in tensors.items()}, new, metadata)


def tensors_of(file: Path, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
    """The tensors in a file of weights, one after the other: those whose names are wanted."""
    from safetensors import safe_open

    with safe_open(file, "pt") as handle:
        for name in filter(wanted, handle.keys()):
            yield name, handle.get_tensor(name)


def _left_out(parts: Iterable[Source], where: Path, names: list[str]) -> set[str]:
    """What of a folder is not copied: the weights of these parts, whole pipelines in one file, histories."""
    out = {name for name in names if name in NOT_PART}
    if any(where in (source.folder, source.folder / source.network) for source in parts):
        out |= {name for name in names if name.endswith(OTHER_WEIGHTS)}
    return out
