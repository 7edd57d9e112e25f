"""combine: how do the gradients of several terms meet? A member's `step(terms, gradients, apply)` makes one step:
`gradients(names)` returns the gradient of the weighted sum of these terms, `apply` takes one optimiser step with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lethe.core.config import config

Gradients = list[Tensor]


@config
class Sum:
    """One step along the gradient of the weighted sum."""

    def step(
        self, terms: Sequence[str], gradients: Callable[[Sequence[str]], Gradients], apply: Callable[[Gradients], None]
    ) -> None:
        apply(gradients(terms))


@config
class Alternate:
    """One optimiser step for each term in turn, with a shared optimiser state."""

    def step(
        self, terms: Sequence[str], gradients: Callable[[Sequence[str]], Gradients], apply: Callable[[Gradients], None]
    ) -> None:
        for term in terms:
            apply(gradients([term]))


@config
class Surgery:
    """One term's gradient loses its part against the sum of the others before they are added.

    PCGrad, Yu et al. 2020, arXiv:2001.06782, with the projection one-sided: only the term `yields` gives way.
    """

    yields: str = "forget"      # the term that gives way; without a term of this name, the first

    def step(
        self, terms: Sequence[str], gradients: Callable[[Sequence[str]], Gradients], apply: Callable[[Gradients], None]
    ) -> None:
        if len(terms) < 2:
            return apply(gradients(terms))
        yields = self.yields if self.yields in terms else terms[0]
        own, others = gradients([yields]), gradients([term for term in terms if term != yields])
        dot = torch.stack([(a * b).sum() for a, b in zip(own, others, strict=True)]).sum()
        square = torch.stack([b.square().sum() for b in others]).sum()
        scale = dot.clamp(max=0) / square.clamp(min=1e-30)
        apply([a - scale * b + b for a, b in zip(own, others, strict=True)])
