"""A large frozen model on an accelerator for as long as it is asked there: what lies on the CPU stays, so that it leaves without
being copied back."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lethe.core.parked import is_large, release

_HOMES: WeakKeyDictionary[nn.Module, dict[str, Tensor]] = WeakKeyDictionary()


def fetched(model: nn.Module, device: torch.device | str) -> nn.Module:
    """The model on the device, in place."""
    if torch.device(device).type != "cpu" and is_large([*model.parameters(), *model.buffers()]):
        _HOMES[model] = {name: p.data for name, p in model.named_parameters()}
    model.to(device)
    release(_HOMES.get(model, {}).values())
    return model


def sent_home(model: nn.Module) -> nn.Module:
    """The model where it was before it was fetched, in place; one that was not stays where it is."""
    for name, value in _HOMES.get(model, {}).items():
        model.get_parameter(name).data = value
    return model.to("cpu") if model in _HOMES else model   # buffers, too


def has_a_home(model: nn.Module) -> bool:
    """Whether it was fetched once."""
    return model in _HOMES
