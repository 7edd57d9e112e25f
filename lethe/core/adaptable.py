"""What of a model takes low-rank adapters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lethe.core.parked import release


@dataclass(frozen=True)
class Adaptable:
    """Names of the layers that take adapters, and in words what takes none although a reader may expect it; mostly empty."""

    layers: tuple[str, ...]
    rest: str = ""


def matrices(model: nn.Module) -> list[str]:
    """Names of all linear and ungrouped convolution layers, and of GPT-2's Conv1D, in the order of registration."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
            or (isinstance(module, nn.Conv2d) and module.groups == 1)]


def fold(model: nn.Module) -> nn.Module:
    """The model without low-rank adapters, their change added to the weights, in place. Added in float64 and rounded once."""
    for name, module in list(model.named_modules()):
        base, merge = getattr(module, "base_layer", None), getattr(module, "merge", None)
        if isinstance(base, nn.Module) and callable(merge):
            places = [(p, p.data) for p in base.parameters()]
            if all(place.is_floating_point() for _, place in places):
                module.double()
            merge()
            with torch.no_grad():
                for p, place in places:   # where it lay, which may be a file
                    place.copy_(p.data)
                    p.data = place
            release(place for _, place in places)
            model.set_submodule(name, base)
    return model


def unadapted(model: nn.Module) -> nn.Module:
    """The model as it is with its low-rank adapters taken off, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(base := getattr(module, "base_layer", None), nn.Module):
            model.set_submodule(name, base)
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model
