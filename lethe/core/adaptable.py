"""What of a model takes low-rank adapters."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


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
            kind = next(base.parameters()).dtype
            if kind.is_floating_point:
                module.double()
            merge()
            if kind.is_floating_point:
                module.to(kind)
            model.set_submodule(name, base)
    return model
