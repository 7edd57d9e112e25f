"""Opening diffusers folders, and pipelines in one file beside one, and writing them; weights of folders from safetensors only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lethe.core.families.diffusion import OWN, own_encoder
from lethe.core.user_files import understood
from lethe.errors import ModelError, NotFinite
from lethe.models.diffusion.denoiser import denoiser_of
from lethe.models.diffusion.one_file import OneFile, renamed, weights
from lethe.models.diffusion.pipeline import Pipeline, require_diffusers
from lethe.models.source import Source, copy_with, variant_of

NETWORKS = ("unet", "transformer")
READ = ("text_encoder", "tokenizer", "vae", "scheduler")   # and those with _2, _3; all else is copied, not opened
INDEX = "model_index.json"
HOLDS_VAE = ("first_stage_model.", "vae.")   # how the names of a VAE begin in one file


def load_pipeline(folder: str | Path, variant: str = "") -> Pipeline:
    """The parts in a diffusers folder, in float32.

    variant  of the weights, e.g. fp16, where there are several; empty: the plain ones, or the only ones
    """
    place = Path(folder)
    if place.is_file():
        raise ModelError(f"{place} is a pipeline in one file, which does not say how its parts are put together; nothing "
                         "was opened. Give a diffusers folder of its kind beside it: model: {file: …, folder: …}.")
    index = _index(place)
    network = next((name for name in NETWORKS if (place / name).is_dir()), None)
    needed = ["scheduler"] if network is not None and index is not None else [
        "scheduler", *(("text_encoder", "tokenizer") if network == "unet" and _reads_text(place / "unet") else ())]
    absent = [name for name in needed if not (place / name).is_dir()]
    if network is None or absent:
        raise ModelError(f"{place} has no {' or '.join(NETWORKS) if network is None else ', '.join(absent)}/, so it is not a "
                         f"diffusion pipeline folder. Expected: {' or '.join(NETWORKS)}, scheduler, and for text text_encoder "
                         "and tokenizer, for latents vae.")
    parts = {name: _sound_part(place / name, listed, variant) for name, listed in _listed(place, index).items()
             if _is_read(name, network)}
    return _put_together(parts, index or {}, Source(place.resolve(), network, variant_of(place / network, variant)))


def load_one_file(file: Path, folder: str | Path) -> Pipeline:
    """The parts that a file holds, in float32, put together as those of a folder of its kind, which provides all others."""
    place = Path(folder)
    index = _index(place) or {}
    network = next((name for name in NETWORKS if isinstance(index.get(name), list)), "")
    kind: Any = getattr(require_diffusers(), index.get("_class_name", ""), None)
    if not network or not hasattr(kind, "from_single_file"):
        raise ModelError(f"{file} is opened as {place / INDEX} says, which names no pipeline that diffusers reads from one file; "
                         "nothing was started. Give a folder of the file's own kind as model.folder.")
    held, listed, given = weights(file), _listed(place, index), {}
    if "vae" in listed and not any(name.startswith(HOLDS_VAE) for name in held):
        given["vae"] = _sound_part(place / "vae", listed["vae"], "")
    with understood(file, f"a {kind.__name__} in one file", f"Give a folder of its own kind; {place} differs.", ModelError):
        whole = kind.from_single_file(str(file), config=str(place), local_files_only=True, **given)
        names = renamed(type(getattr(whole, network)), held, place, network)
    parts = {name: getattr(whole, name) for name in listed if _is_read(name, network)}
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            part.float()
        _require_finite(file, part, f" of {name}")
    return _put_together(parts, index, OneFile(file.resolve(), place.resolve(), network, names))


def _is_read(name: str, network: str) -> bool:
    return name.removesuffix("_2").removesuffix("_3") in (*READ, network)


def _put_together(parts: dict[str, Any], index: Mapping[str, Any], source: Source | OneFile) -> Pipeline:
    kept = {name: parts.pop(name, None) for name in ("text_encoder", "tokenizer", "scheduler", "vae")}
    told = {key: value for key, value in index.items() if not isinstance(value, list) and not key.startswith("_")}
    kind = index.get("_class_name", "")
    opened = Pipeline(parts.pop(source.network), **kept, others=parts, kind=kind, options=told, source=source)
    _require_vae(opened, source.folder)
    return opened


def save_pipeline(pipeline: Pipeline, folder: Path) -> None:
    """Write a folder that loads without Lethe: the one that it came in with what moved replaced, or a new one. A text encoder
    that the network brings is the folder's."""
    own = own_encoder(pipeline.network)
    if own is None:
        _write(pipeline, folder, {})
        return
    delattr(pipeline.network, OWN)
    try:
        source = pipeline.source
        _write(replace(pipeline, text_encoder=own), folder, {encoder_of(source): own} if isinstance(source, Source) else {})
    finally:
        pipeline.network.add_module(OWN, own)


def _write(pipeline: Pipeline, folder: Path, beside: Mapping[Source, torch.nn.Module]) -> None:
    if isinstance(pipeline.source, OneFile):
        pipeline.source.write(pipeline.network, folder)
        return
    if pipeline.source is not None:
        copy_with(pipeline.source, pipeline.network, folder, beside)
        return
    diffusers = require_diffusers()
    if pipeline.vae is not None and not pipeline.others and pipeline.kind in ("", "StableDiffusionPipeline"):
        diffusers.StableDiffusionPipeline(
            vae=pipeline.vae, text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer, unet=pipeline.network,
            scheduler=pipeline.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        ).save_pretrained(folder, safe_serialization=True)
        return
    network = "transformer" if "Transformer" in type(pipeline.network).__name__ else "unet"
    named = {network: pipeline.network, "text_encoder": pipeline.text_encoder, "tokenizer": pipeline.tokenizer,
             "scheduler": pipeline.scheduler, "vae": pipeline.vae, **pipeline.others}
    for name, part in named.items():
        if part is not None:
            part.save_pretrained(folder / name)


def encoder_of(source: Source) -> Source:
    """The first text encoder of a folder."""
    return replace(source, network="text_encoder", variant=_fitting(source.folder / "text_encoder", source.variant))


def read_again(folder: Path, before: Pipeline) -> torch.nn.Module:
    """The network that `save_pipeline` wrote, with the folder's text encoder where it is another than before."""
    found = load_pipeline(folder)
    if found.text_encoder is not None and before.text_encoder is not None:
        then, now = before.text_encoder.state_dict(), found.text_encoder.state_dict()
        if any(not torch.equal(value, then[name].to(value.device)) for name, value in now.items()):
            found.network.add_module(OWN, found.text_encoder)
    return found.network


def widths(source: Source | OneFile, network: torch.nn.Module) -> dict[str, torch.dtype]:
    """The precision in which every tensor of a network goes out, those of an encoder that it brings, too."""
    found, own = source.dtypes(), own_encoder(network)
    if own is not None and isinstance(source, Source):
        held = encoder_of(source).dtypes()
        other = next(iter(held.values())) if len(set(held.values())) == 1 else torch.float32
        found |= {f"{OWN}.{name}": held.get(name, other) for name in own.state_dict()}
    return found


def of_class(pipeline: Pipeline) -> Any:
    """The class of diffusers that the pipeline's folder names; None for one that diffusers does not have."""
    return getattr(require_diffusers(), pipeline.kind or "StableDiffusionPipeline", None)


def told_of_lora(pipeline: Pipeline) -> str:
    """How an adapter is loaded where the pipeline's class does not; else nothing."""
    if hasattr(of_class(pipeline), "save_lora_weights"):
        return ""
    return (f"diffusers' {pipeline.kind} has no load_lora_weights, so the adapter is PEFT's alone: adapter/, which PeftModel."
            "from_pretrained puts on the network; the folder beside it holds the merged pipeline")


def save_lora(pipeline: Pipeline, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], folder: Path) -> None:
    """pytorch_lora_weights.safetensors, which `load_lora_weights` of the pipeline's class reads; nothing where it reads none."""
    kind = of_class(pipeline)
    network = "unet" if pipeline.source is None else pipeline.source.network
    if hasattr(kind, "save_lora_weights"):
        layers = {f"{network}_lora_layers": {name: value.cpu().contiguous() for name, value in tensors.items()},
                  f"{network}_lora_adapter_metadata": dict(settings)}
        kind.save_lora_weights(folder, **layers)


def _index(place: Path) -> dict[str, Any] | None:
    file = place / INDEX
    if not file.is_file():
        return None
    return _settings(file)


def _settings(file: Path) -> dict[str, Any]:
    """What a JSON file of the folder says; ModelError where it is damaged."""
    with understood(file, "JSON", "Copy the folder again.", ModelError):
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found


def _require_vae(opened: Pipeline, place: Path) -> None:
    channels = denoiser_of(opened).channels
    if opened.vae is None and channels not in (1, 3):
        raise ModelError(f"the network of {place} draws {channels} channels, which are latents and no colours, and there is no "
                         "vae/, so no picture could be seen or read; nothing was started. Add the folder vae, and name it in "
                         "model_index.json.")


def _listed(place: Path, index: Mapping[str, Any] | None) -> dict[str, str]:
    """The class of each part, by the name of its folder: as the index says, or as the part's own configuration does."""
    if index is not None:
        needed = {name for name, value in index.items() if isinstance(value, list) and value[1]
                  and name.removesuffix("_2").removesuffix("_3") in (*READ, *NETWORKS)}
        if absent := sorted(name for name in needed if not (place / name).is_dir()):
            raise ModelError(f"{place / INDEX} names {', '.join(absent)}, which the folder does not have, so the pipeline would "
                             "be another one than it says; nothing was started. Copy the folder again, whole.")
        return {name: value[1] for name, value in index.items()
                if isinstance(value, list) and value[1] and (place / name).is_dir()}
    return {folder.name: "" for folder in sorted(place.iterdir()) if folder.is_dir()}


def _reads_text(unet: Path) -> bool:
    config = unet / "config.json"
    return not config.is_file() or _settings(config).get("_class_name") != "UNet2DModel"


def _sound_part(place: Path, named: str, variant: str) -> Any:
    """One part of a pipeline; an error for what cannot be read, is not whole or holds NaN."""
    remedy = "A file may be cut off, or config.json belong to other weights: copy the folder again, whole."
    with understood(place, "a part of a pipeline", remedy, ModelError):
        part = _part(place, named, variant)
    _require_finite(place, part)
    return part


def _require_finite(place: Path, part: object, of: str = "") -> None:
    for name, value in part.state_dict().items() if isinstance(part, torch.nn.Module) else ():
        if value.is_floating_point() and not bool(value.sum().isfinite()) and not bool(value.isfinite().all()):
            raise NotFinite(f"{place} holds NaN or infinity in {name}{of}, so all that it computes would be; nothing was "
                            "started. Use an intact copy; a part that was saved in half precision after it had overflowed stays "
                            "broken.")


def _part(place: Path, named: str, variant: str) -> Any:
    """One part of a pipeline, by its class."""
    diffusers = require_diffusers()
    import transformers

    plain = place.name.removesuffix("_2").removesuffix("_3")
    if plain == "tokenizer":
        return getattr(transformers, named or "CLIPTokenizer").from_pretrained(place)
    if plain == "scheduler":
        config = _settings(place / "scheduler_config.json")
        kind = getattr(diffusers, config.get("_class_name", "DDIMScheduler"), None)
        if kind is None:
            raise ModelError(f"{place} holds a {config['_class_name']}, which diffusers {diffusers.__version__} does not have, "
                             "so nothing could be drawn. Install the version that wrote the folder.")
        return kind.from_config(config)
    config = _settings(place / "config.json")
    library, found = (transformers, (named or (config.get("architectures") or ["CLIPTextModel"])[0])) if plain == "text_encoder" \
        else (diffusers, config.get("_class_name", named))
    kind = getattr(library, found, None)
    if kind is None:
        raise ModelError(f"{place} holds a {found}, which {library.__name__} {library.__version__} does not have, so the "
                         "pipeline could not be opened. Install the version that wrote the folder.")
    chosen = variant_of(place, variant) if plain in NETWORKS else _fitting(place, variant)
    width = {"dtype" if library is transformers else "torch_dtype": torch.float32}
    part, info = kind.from_pretrained(place, variant=chosen or None, use_safetensors=True, output_loading_info=True, **width)
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"the weights in {place} lack {len(missing)} of the tensors that a {found} has, {missing[0]} first, so "
                         "random ones would stand in for them; nothing was started. Copy the folder again, whole.")
    return part


def _fitting(place: Path, variant: str) -> str:
    """As `variant_of`, for a part that need not have the variant that the network has."""
    try:
        return variant_of(place, variant)
    except ModelError:
        return variant_of(place)
