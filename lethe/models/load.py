"""A user's classifier: the code that makes it, or a name of the zoo, and its weights.

    load_classifier(code="net.py:make", weights="model.safetensors")
    load_classifier(zoo="cifar_resnet", weights="resnet20.npz", options={"blocks": 3})

`code` is run, as any program of yours would be. Weights are plain numbers: safetensors, or .npz by parameter name.
"""

from __future__ import annotations

import inspect
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.catalogue import load
from lethe.core.code import named as code_named
from lethe.core.files import refuse_pickle
from lethe.errors import ModelError, RequestError, nearest

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


def load_classifier(
    *,
    zoo: str | None = None,
    code: str | None = None,
    options: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    prefix: str = "",
    allow_pickle: bool = False,
    data_root: Path | None = None,
) -> nn.Module:
    """The model, on the CPU.

    code, zoo     path/to/file.py:factory or package.module:factory; or a model of the zoo
    options       arguments of the factory
    weights       .safetensors, or .npz with one array per parameter; a relative path may be below `data_root`; without
                  it the model has the weights that its code sets
    prefix        beginning of the names in `weights` that the model does not have, e.g. module.
    allow_pickle  read .pt and .pth although a pickle can run code: only if you trust its origin
    """
    model = factory(zoo, code, options)()
    if weights:
        path = Path(weights).expanduser()
        if data_root is not None and not path.exists() and (data_root / path).exists():
            path = data_root / path
        put(model, read_weights(path, allow_pickle), path.name, prefix)
    return model


def factory(zoo: str | None = None, code: str | None = None, options: Mapping[str, Any] | None = None
            ) -> Callable[[], nn.Module]:
    """The function that makes the model with fresh weights; the recipe retrains from what it returns."""
    options = dict(options or {})
    if bool(code) == bool(zoo):
        both = "both code and zoo" if code else "neither code nor zoo"
        raise RequestError(f"the model has {both}, so it is not clear what it is; nothing was started. Set model.code "
                           "= path/to/file.py:factory, or model.zoo = a name.")
    make, name = (code_named(code), code) if code else (load("zoo", zoo or ""), zoo or "")
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        known = list(inspect.signature(make).parameters)
        wrong = next((key for key in options if key not in known), "")
        raise RequestError(f"{name} cannot be called with model.options {options}: "
                           f"{error}{nearest(wrong, known)}; nothing was started. It takes: "
                           f"{', '.join(known) or 'no options'}.") from None

    def fresh() -> nn.Module:
        model = make(**options)
        if not isinstance(model, nn.Module):
            raise ModelError(f"{name} returned a {type(model).__name__}, which cannot be trained. Let it return a "
                             "torch.nn.Module.")
        return model

    return fresh


def read_weights(path: str | Path, allow_pickle: bool = False) -> dict[str, Tensor]:
    """Tensors by name from .safetensors or .npz; from a pickle only when allowed, tensors alone."""
    path = Path(path).expanduser()
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ModelError(f"{path} does not exist{nearest(path.name, beside)}, so there are no weights. Correct "
                         "model.weights.")
    if path.suffix in PICKLED:
        refuse_pickle(path, "Convert it where it was made: safetensors.torch.save_file(model.state_dict(), "
                            "'model.safetensors')",
                      allow_pickle)
        return _pickled(path)
    if path.suffix == ".npz":
        return _arrays(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a valid safetensors file ({error}), so its weights cannot be trusted. Copy it "
                         "again.") from None


def put(model: nn.Module, tensors: Mapping[str, Tensor], origin: str, prefix: str = "") -> None:
    """Weights into the model; every name and every shape must fit. Names that share one tensor may be given once."""
    named = {key.removeprefix(prefix): value for key, value in tensors.items()}
    own = model.state_dict()
    for name, value in named.items():
        if name not in own:
            raise ModelError(f"{origin} has {name!r}, which {type(model).__name__} does not have{nearest(name, own)}, "
                             "so the weights belong to another model. Correct model.code or model.options, or strip a "
                             "beginning with "
                             "model.prefix.")
        if value.shape != own[name].shape:
            raise ModelError(f"{name!r} is {tuple(value.shape)} in {origin} and {tuple(own[name].shape)} in "
                             f"{type(model).__name__}, so the weights belong to another model. Correct model.options.")
    places = {own[name].data_ptr() for name in named}
    absent = [name for name, value in own.items()
              if name not in named and (not value.numel() or value.data_ptr() not in places)]
    if absent:
        raise ModelError(f"{origin} lacks {len(absent)} tensors of {type(model).__name__}, the first is {absent[0]!r}"
                         f"{nearest(absent[0], named)}, so they would stay random. Provide the whole state dict.")
    model.load_state_dict(named, strict=False)


def _pickled(path: Path) -> dict[str, Tensor]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        held = torch.load(path, map_location="cpu", weights_only=False)
    except (RuntimeError, EOFError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error}), so there are no weights. Copy it again.") from None
    held = held.state_dict() if isinstance(held, nn.Module) else held
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
            break
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        raise ModelError(f"{path} holds no state dict, so there are no weights to take. Save model.state_dict() as "
                         "safetensors.")
    return dict(held)


def _arrays(path: Path) -> dict[str, Tensor]:
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as archive:
            return {key: torch.from_numpy(archive[key]) for key in archive.files}
    except (ValueError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"{path} cannot be read as arrays ({error}), so there are no weights. Save one array per "
                         "parameter.") from None
