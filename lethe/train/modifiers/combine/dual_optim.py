"""Forget and retain keep Adam moments of their own beside those that they share, and take steps in turn.

DualOptim+ (2026, official code CityU-MLO/DualOptimPlus), after DualOptim, Zhong, Wang, Zhang & Liu 2025, arXiv:2504.15827. Of a
term with gradient g, with the shared moments m_b, v_b as they were before this step:

    m ← β₁·m + (1 − β₁)·(g − m̂_b),    v ← β₂·v + (1 − β₂)·(g² − v̂_b),    ^ without the bias of the start
    θ ← θ − η·(m̂ + m̂_b) / (√|v̂ + v̂_b| + ε),    then   m_b ← β₃·m_b + (1 − β₃)·g,    v_b ← β₄·v_b + (1 − β₄)·g²

One optimiser's moments mix two losses that pull apart: the term with large gradients then sets the step of the other. The
official code gives the retain term five steps for each of the forget term, on batches of their own; here each has one. `ratio`
stands for its two learning rates. Six copies of what moves are kept.

The quotient has no bound of its own: where v̂ and v̂_b cancel, as in entries that one term does not reach, what is left is rounding
(7,700·η in a step of NPO on the tiny Llama of the tests). Here it is at most 1, the largest that Adam's with these β can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from lethe.core.config import Fraction, NonNegative, config
from lethe.train.modifiers.combine import Apply, Ask, Combine, Gradients, Memory, sides

EPS = 1e-8


@config
class DualOptim:
    first: str = "forget"          # the term with moments of its own; without a term of this name, the first [e.g. retain]
    beta1: Fraction = 0.9          # β₁                                                      [official code]
    beta2: Fraction = 0.95         # β₂                                                      [official code]
    base1: Fraction = 0.9          # β₃                                                      [official code]
    base2: Fraction = 0.95         # β₄                                                      [official code]
    ratio: NonNegative = 1.0       # its learning rate as a multiple of the others'          [official code]

    takes_steps: ClassVar[bool] = True

    def recalling(self, params: Mapping[str, nn.Parameter], memory: Memory) -> Combine:
        return _Recalling(self, params, memory)


@dataclass(frozen=True)
class _Recalling:
    """The same with the moments of one run."""

    cfg: DualOptim
    params: Mapping[str, nn.Parameter]
    memory: Memory

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        if len(terms) < 2:
            return apply(gradients(terms))
        own, others = sides(terms, self.cfg.first)
        apply([self.cfg.ratio * d for d in self._directions("own", gradients(own))])
        apply(self._directions("others", gradients(others)))

    def _directions(self, side: str, found: Gradients) -> Gradients:
        """(m̂ + m̂_b) / (√|v̂ + v̂_b| + ε) for the gradients of one side; its moments and the shared ones go on."""
        cfg, memory = self.cfg, self.memory
        shared, step = self._count("shared"), self._count(side)
        made = []
        for name, gradient in zip(self.params, found, strict=True):
            g = gradient.float()
            base1, base2 = (memory.get(f"{key} shared/{name}", torch.zeros_like(g)) for key in ("m", "v"))
            known1, known2 = (base / (1 - beta ** (shared - 1)) if shared > 1 else base
                              for base, beta in ((base1, cfg.base1), (base2, cfg.base2)))
            m, v = (memory.get(f"{key} {side}/{name}", torch.zeros_like(g)) for key in ("m", "v"))
            m, v = cfg.beta1 * m + (1 - cfg.beta1) * (g - known1), cfg.beta2 * v + (1 - cfg.beta2) * (g.square() - known2)
            below = (v / (1 - cfg.beta2**step) + known2).abs().sqrt() + EPS
            made.append(((m / (1 - cfg.beta1**step) + known1) / below).clamp(-1, 1).to(gradient.dtype))
            memory[f"m {side}/{name}"], memory[f"v {side}/{name}"] = m, v
            memory[f"m shared/{name}"] = cfg.base1 * base1 + (1 - cfg.base1) * g
            memory[f"v shared/{name}"] = cfg.base2 * base2 + (1 - cfg.base2) * g.square()
        return made

    def _count(self, what: str) -> int:
        """Steps of a side, or of both, with the one that is taken now."""
        count = int(self.memory.get(f"steps of {what}", torch.tensor(0))) + 1
        self.memory[f"steps of {what}"] = torch.tensor(count)
        return count
