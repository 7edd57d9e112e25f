"""Mixtures of experts inside any `nn.Module`: which modules route, and which parameters are an expert's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.modules import hooked


@dataclass(frozen=True)
class Mixture:
    """One block's router and its experts; experts that every token passes are none of them.

    name  of the module that holds both, as `model.named_modules()` has it
    """

    name: str
    router: nn.Module
    experts: nn.Module
    count: int

    def probabilities(self, states: Tensor) -> Tensor:
        """softmax over all experts of the router's scores, before the best are chosen.  [K, d] -> [K, experts]"""
        weight = self.router.get_parameter("weight")
        bias = dict(self.router.named_parameters()).get("bias")
        return torch.nn.functional.linear(states.to(weight.dtype), weight, bias).float().softmax(-1)

    def of_expert(self, expert: int) -> Iterator[tuple[str, nn.Parameter, bool]]:
        """(name, parameter, whether its first dimension counts experts) of what belongs to one expert."""
        inside = f"{self.name}.experts" if self.name else "experts"
        if isinstance(self.experts, nn.ModuleList):
            for name, p in self.experts[expert].named_parameters():
                yield f"{inside}.{expert}.{name}", p, False
            return
        for name, p in self.experts.named_parameters():
            if p.dim() and len(p) == self.count:
                yield f"{inside}.{name}", p, True


def mixtures(model: nn.Module) -> list[Mixture]:
    """Every module with `experts` and, beside them, one whose matrix has a row for each: first to last."""
    found = []
    for name, module in model.named_modules():
        experts = dict(module.named_children()).get("experts")
        if experts is None:
            continue
        fused = [len(p) for p in experts.parameters(recurse=False) if p.dim() == 3]
        count = len(experts) if isinstance(experts, nn.ModuleList) else fused[0] if fused else 0
        routers = [child for child in module.children() if child is not experts and count
                   and (weight := dict(child.named_parameters(recurse=False)).get("weight")) is not None
                   and weight.dim() == 2 and len(weight) == count]
        if len(routers) == 1:
            found.append(Mixture(name, routers[0], experts, count))
    return found


@contextmanager
def arriving(blocks: Sequence[Mixture]) -> Iterator[dict[int, Tensor]]:
    """Inside, what the router of each block was given last, by the block's place."""
    states: dict[int, Tensor] = {}

    def keeping(place: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
            states[place] = args[0].detach()
        return keep

    handles = [block.router.register_forward_pre_hook(keeping(place)) for place, block in enumerate(blocks)]
    with hooked(*handles):
        yield states
