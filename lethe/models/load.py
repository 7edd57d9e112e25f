"""A user's classifier: the code that makes it, or a name of the zoo, and its weights.

    load_classifier(code="net.py:make", weights="model.safetensors")
    load_classifier(zoo="cifar_resnet", weights="resnet20.npz", options={"blocks": 3})

`code` is run, as any program of yours would be. Weights are plain numbers: see `lethe.models.weights`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lethe.core.catalogue import load
from lethe.core.code import named as code_named
from lethe.data.paths import under_root
from lethe.errors import ModelError, RequestError, nearest
from lethe.models.weights import Form, halved, put, read_weights


@dataclass(frozen=True)
class Loaded:
    """A model, in float32, and the form in which its weights came."""

    model: nn.Module
    form: Form


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
    """The model, on the CPU, in float32.

    code, zoo     path/to/file.py:factory or package.module:factory; or a model of the zoo
    options       arguments of the factory
    weights       .safetensors, .npz with one array per parameter, or a torch file of plain tensors (.pt, .pth, .bin, .ckpt); a
                  relative path may be below `data_root`; without it the model has the weights that its code sets
    prefix        beginning of the names in `weights` that the model does not have; module. and _orig_mod. need not be named
    allow_pickle  read torch files that hold more than plain tensors, although they can run code: only if you trust their origin
    """
    return loaded(factory(zoo, code, options)(), weights, prefix, allow_pickle, data_root).model


def loaded(model: nn.Module, weights: str | Path | None = None, prefix: str = "", allow_pickle: bool = False,
           data_root: Path | None = None) -> Loaded:
    """The model with its weights, if any, and their form; see `load_classifier`."""
    types = halved(model)
    if types:
        model.float()
    if not weights:
        return Loaded(model, Form(types=types))
    return Loaded(model, put(model, read_weights(under_root(data_root, weights), allow_pickle), prefix))


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


