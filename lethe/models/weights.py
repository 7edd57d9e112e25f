"""Weights in a file: the tensors in it, the form in which they stand there, and how the same form is written again.

    weights = read_weights("net.pt")               a checkpoint {"model": {"module.fc.weight": …}} saved from DDP, in float16
    form = put(net, weights)                       entry "model", fc.weight stands there as module.fc.weight, float16
    write(net, form, folder)                       model.safetensors and net.pt, with the same names, types and entry

Whoever brought the file loads what comes out with the same code. Numbers are computed in float32: half-precision values are
exact there, and what is delivered is rounded back before it is audited (`rounded`). What else a checkpoint holds (epoch, state
of an optimiser) is not carried over: moments of gradients remember the data that was to go.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.files import refuse_pickle
from lethe.core.user_files import beside
from lethe.errors import ModelError, nearest

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
WRITTEN = (".pt", ".pth", ".bin", ".ckpt", ".npz")                # file kinds that are written again beside model.safetensors
ENTRIES = ("state_dict", "model_state_dict", "model", "net", "weights", "params")   # of a checkpoint, where several fit
WRAPPERS = ("module.", "_orig_mod.")                              # of DistributedDataParallel, of torch.compile
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Form:
    """How weights stand in a file.

    file   its name                              entry  of the checkpoint that holds the state dict; empty: the file is one
    names  the model's own name -> in the file   types  name in the model -> element type in the file, where it is half precision
    """

    file: str = "model.safetensors"
    entry: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, torch.dtype] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether the names and types are the model's own."""
        return not self.types and all(own == there for own, there in self.names.items())

    @property
    def words(self) -> str:
        """What was done to take the weights in; empty where nothing was."""
        done = []
        if self.entry:
            done.append(f"took the entry {'.'.join(self.entry)!r}")
        first = next(((own, there) for own, there in self.names.items() if own != there), None)
        if first:
            done.append(f"read {first[1]!r} as {first[0]!r} and the others likewise")
        if self.types:
            kinds = sorted({str(kind).removeprefix("torch.") for kind in self.types.values()})
            done.append(f"compute in float32 what is {' and '.join(kinds)}; it is rounded back before it is audited")
        return f"{self.file}: {', '.join(done)}" if done else ""


@dataclass(frozen=True)
class Weights:
    """The tensors of a file by the names that they have there."""

    tensors: Mapping[str, Tensor]
    file: str
    entry: tuple[str, ...] = ()


def read_weights(path: str | Path, allow_pickle: bool = False) -> Weights:
    """Tensors by name from .safetensors, .npz or a torch file (.pt, .pth, .bin, .ckpt) of plain tensors, read by torch's
    `weights_only`, which runs no code. Files that would run code are read only when allowed. Raises ModelError."""
    path = Path(path).expanduser()
    if not path.exists():
        raise ModelError(f"{path} does not exist{nearest(path.name, beside(path))}, so there are no weights. Correct "
                         "model.weights.")
    if path.suffix in PICKLED:
        return _state_dict(_unpickled(path, allow_pickle), path)
    if path.suffix == ".npz":
        return Weights(_arrays(path), path.name)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return Weights(load_file(path), path.name)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a valid safetensors file ({error}), so its weights cannot be trusted. Copy it "
                         "again.") from None


def put(model: nn.Module, weights: Weights, prefix: str = "") -> Form:
    """Weights into the model; every name and every shape must fit. Names that share one tensor may be given once.

    prefix   beginning of the names in the file that the model does not have. Those of DistributedDataParallel (`module.`) and of
             compiled models (`_orig_mod.`) need not be named.
    """
    own, origin = model.state_dict(), weights.file
    names = {there: _own_name(there, own, prefix) for there in weights.tensors}
    for there, name in names.items():
        value = weights.tensors[there]
        if name not in own:
            raise ModelError(f"{origin} has {there!r}, which {type(model).__name__} does not have{nearest(name, own)}, "
                             "so the weights belong to another model. Correct model.code or model.options, or strip a "
                             "beginning with model.prefix.")
        if value.shape != own[name].shape:
            raise ModelError(f"{there!r} is {tuple(value.shape)} in {origin} and {tuple(own[name].shape)} in "
                             f"{type(model).__name__}, so the weights belong to another model. Correct model.options.")
    places = {own[name].data_ptr() for name in names.values()}
    given = set(names.values())
    absent = [name for name, value in own.items()
              if name not in given and (not value.numel() or value.data_ptr() not in places)]
    if absent:
        raise ModelError(f"{origin} lacks {len(absent)} tensors of {type(model).__name__}, the first is {absent[0]!r}"
                         f"{nearest(absent[0], given)}, so they would stay random. Provide the whole state dict.")
    model.load_state_dict({name: weights.tensors[there] for there, name in names.items()}, strict=False)
    types = {name: weights.tensors[there].dtype for there, name in names.items() if weights.tensors[there].dtype in HALF}
    return Form(origin, weights.entry, {name: there for there, name in names.items()}, types)


def halved(model: nn.Module) -> dict[str, torch.dtype]:
    """The parameters and buffers in half precision, name -> type."""
    return {name: value.dtype for name, value in model.state_dict().items() if value.dtype in HALF}


def rounded(model: nn.Module, form: Form) -> nn.Module:
    """The model with every value as the file can hold it, in place: what is audited is then what is delivered."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name in form.types:
                exact = value.to(form.types[name])
                if not torch.equal(exact.to(value.dtype), value):   # a tensor that is the original's, too, is never written to
                    value.copy_(exact)
    return model


def write(model: nn.Module, form: Form, folder: Path) -> None:
    """`model.safetensors` with the names and types of the form and, where another kind of file came in, that kind beside it."""
    from safetensors.torch import save_file, save_model

    tensors: dict[str, Any] = _named(model, form)
    if form.plain:
        save_model(model, str(folder / "model.safetensors"))
    else:   # safetensors wants every tensor with storage of its own
        save_file({name: value.clone() for name, value in tensors.items()}, str(folder / "model.safetensors"), {"format": "pt"})
    suffix = Path(form.file).suffix
    if suffix not in WRITTEN:
        return
    if suffix == ".npz":
        np.savez(folder / form.file, **{name: value.numpy() for name, value in tensors.items()})
        return
    for key in reversed(form.entry):
        tensors = {key: tensors}
    torch.save(tensors, folder / form.file)


class InItsForm:
    """A task whose models go out in the form in which their weights came in, with a note beside them."""

    family: ClassVar[str]
    form: Form

    def save_model(self, model: nn.Module, folder: Path) -> None:
        """The weights (`write`) and lethe.json: the family, and what else `about` says."""
        write(model.cpu(), self.form, folder)
        (folder / "lethe.json").write_text(json.dumps({"family": self.family, **self.about()}) + "\n", encoding="utf-8")

    def deliverable(self, model: nn.Module) -> nn.Module:
        """The model as its form can hold it, in place."""
        return rounded(model, self.form)

    def about(self) -> dict[str, Any]:
        """What is written beside the weights."""
        return {}


def _named(model: nn.Module, form: Form) -> dict[str, Tensor]:
    """The model's tensors by their names in the file, in its types. Of those that share one tensor, the names that were there."""
    state = model.state_dict()
    known = {name: there for name, there in form.names.items() if name in state}
    if len(known) < len(form.names) or not known:   # another structure than what came in: its own names
        known = {name: name for name in state}
    return {there: state[name].detach().cpu().to(form.types.get(name, state[name].dtype)).contiguous()
            for name, there in known.items()}


def _own_name(there: str, own: Mapping[str, Tensor], prefix: str) -> str:
    """The model's name for a name in a file."""
    name = there.removeprefix(prefix)
    if name in own:
        return name
    bare = name.replace("_orig_mod.", "")
    while bare not in own and bare.startswith(WRAPPERS[0]):
        bare = bare.removeprefix(WRAPPERS[0])
    return bare if bare in own else name


def _unpickled(path: Path, allow_pickle: bool) -> Any:
    """What a torch file holds. Code in it runs only when allowed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")   # torch warns of pickles that are not its own before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        refuse_pickle(path, "It holds more than tensors, numbers and text. Save the weights alone where it was made: "
                            "torch.save(model.state_dict(), 'model.pt')", allow_pickle, "pass --allow-pickle")
    except Exception as error:   # a damaged file can make torch's reader raise anything
        raise ModelError(f"{path} cannot be read ({type(error).__name__}: {str(error)[:200]}), so there are no weights. Copy it "
                         "again.") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise ModelError(f"{path} cannot be read ({type(error).__name__}: {str(error)[:200]}), so there are no weights. It "
                         "may need code that is not here; save model.state_dict() where it was made.") from None


def _state_dict(held: Any, path: Path) -> Weights:
    """The state dict in what a torch file holds: itself, a module's, or an entry of a checkpoint."""
    if isinstance(held, nn.Module):
        return Weights(held.state_dict(), path.name)
    entry: tuple[str, ...] = ()
    while isinstance(held, Mapping) and not _is_state_dict(held):
        known = [str(key) for key, value in held.items() if _is_state_dict(value) or
                 (isinstance(value, Mapping) and any(map(_is_state_dict, value.values())) and key in ENTRIES)]
        chosen = next((key for key in ENTRIES if key in known), known[0] if len(known) == 1 else None)
        if chosen is None:
            several = f": it has {', '.join(map(repr, known))}" if known else ""
            raise ModelError(f"{path} holds no state dict that is clearly the model's{several}, so there are no weights to take. "
                             "Save model.state_dict() alone: torch.save(model.state_dict(), 'model.pt').")
        held, entry = held[chosen], (*entry, chosen)
    if not _is_state_dict(held):
        raise ModelError(f"{path} holds no state dict but a {type(held).__name__}, so there are no weights to take. Save "
                         "model.state_dict() as safetensors.")
    return Weights(dict(held), path.name, entry)


def _is_state_dict(held: Any) -> bool:
    return isinstance(held, Mapping) and bool(held) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in held.items())


def _arrays(path: Path) -> dict[str, Tensor]:
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as archive:
            return {key: torch.from_numpy(archive[key]) for key in archive.files}
    except (ValueError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"{path} cannot be read as arrays ({error}), so there are no weights. Save one array per "
                         "parameter.") from None
