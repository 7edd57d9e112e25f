"""What closed forms have in common: the projections that text enters first, and prompts as the states that these read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.families.diffusion import DiffusionTask
from lethe.errors import RequestError
from lethe.maths.text_states import Policy, aligned
from lethe.train.loop import Loop
from lethe.train.modifiers.where.lora import A, B, adapted_layers
from lethe.train.modifiers.where.names import Names

VISIBLE = 1e-3   # share of a change from which it is said that an adapter could not hold it      [ours]


@dataclass(frozen=True)
class Projections:
    """Projections W [out, d] of a model that are edited, and the prompts of its task as states.

    weights  by name; `where` lets them move, or adapters that stand on them
    lost     share of the change that an adapter could not hold, by its rank
    """

    task: DiffusionTask
    model: nn.Module
    weights: dict[str, nn.Parameter]
    began: float = field(default_factory=time.perf_counter)
    lost: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, task: DiffusionTask, loop: Loop, endings: tuple[str, ...] = ("",), beside: tuple[str, ...] = (),
           adapters: bool = False) -> Projections:
        """Of the model where a run starts. RequestError where there are no prompts with the concept, or nothing may move.

        endings  of the names of the layers; where none of them has such a name, all of them
        beside   patterns of parameters that the method moves later
        adapters whether adapters may hold the change: of a method that writes each weight once, by `write`
        """
        if not task.prompts.get("forget"):
            raise RequestError("the task names no prompts with the concept, so there is nothing to edit; nothing was "
                               "started. Provide prompts.")
        layers = list(task.attention_projections(task.original))
        keys = {f"{name}.weight" for name in [name for name in layers if name.endswith(endings)] or layers}
        model = loop.start(where=Names((*keys, *beside)))
        moving = loop.selected(model)
        weights = {name: p for name, p in moving.items() if name in keys}
        if adapters:
            weights |= {f"{layer}.weight": model.get_submodule(layer).get_parameter("base_layer.weight")
                        for layer in adapted_layers(moving)}
        if not weights:
            raise RequestError(f"where={loop.modifiers.where} leaves no key or value projection of cross-attention to "
                               "edit, so nothing would change. Use where=all.")
        return cls(task, model, weights)

    def states(self, old: Sequence[str], new: Sequence[str], tokens: Policy) -> tuple[Tensor, Tensor]:
        """What the projections read of old and new prompts at the tokens that the policy names, aligned.  -> [m, d] ×2"""
        one, other = (self.task.words(self.task.tokens(list(prompts))) for prompts in (old, new))
        return aligned(one, other, tokens)

    def guides(self, guide: str) -> list[str]:
        """What takes the place of each prompt with the concept: the guide, or the prompt with the replacement of its concept."""
        replaced = any(one.replacement for one in self.task.concepts)
        return [self.task.rest(prompt) if replaced else guide for prompt in self.task.prompts["forget"]]

    def every(self, prompts: Sequence[str], first: int = 0) -> Tensor:
        """What they read of prompts at every token from the place `first` on, of each encoder.  -> [m, d]"""
        return torch.cat([words.states[:, first:].flatten(0, 1) for words in self.task.words(self.task.tokens(list(prompts)))])

    @torch.no_grad()
    def multiply(self, factor: Tensor) -> None:
        """W ← W·T for each of them, in float64.  [d, d]"""
        for name, p in self.weights.items():
            self.write(name, p.double() @ factor.to(p.device))

    @torch.no_grad()
    def write(self, name: str, value: Tensor) -> None:
        """W ← value; where an adapter stands on W, the adapter is the nearest of its rank to the change."""
        layer: Any = self.model.get_submodule(name.removesuffix(".weight"))
        if not hasattr(layer, "base_layer"):
            self.weights[name].copy_(value)
            return
        u, s, v = torch.linalg.svd(value.double() - self.weights[name].double(), full_matrices=False)
        a, b, r = layer.get_parameter(A), layer.get_parameter(B), min(len(layer.get_parameter(A)), len(s))
        root = (s[:r] / layer.scaling["default"]).sqrt()
        a.zero_()
        b.zero_()
        a[:r], b[:, :r] = root[:, None] * v[:r], u[:, :r] * root
        self.lost[name] = float(s[r:].norm() / s.norm().clamp_min(torch.finfo(s.dtype).tiny))

    @property
    def told(self) -> str:
        """What was edited, in how long, and what of it adapters could not hold."""
        most = max(self.lost.values(), default=0.0)
        held = "" if most < VISIBLE else f"; of the change of one, {100 * most:.1f} % is beyond its adapter: raise where.rank"
        return f"{len(self.weights)} projections edited in closed form in {time.perf_counter() - self.began:.2f} s{held}"
