"""One term's gradient loses its part against the sum of the others before they are added.

PCGrad, Yu et al. 2020, arXiv:2001.06782, with the projection one-sided: only the term `yields` gives way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lethe.core.config import config
from lethe.train.modifiers.combine import Apply, Ask


@config
class Surgery:
    yields: str = "forget"      # the term that gives way; without a term of this name, the first [e.g. retain]

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        if len(terms) < 2:
            return apply(gradients(terms))
        yields = self.yields if self.yields in terms else terms[0]
        own, others = gradients([yields]), gradients([term for term in terms if term != yields])
        dot = torch.stack([(a * b).sum() for a, b in zip(own, others, strict=True)]).sum()
        square = torch.stack([b.square().sum() for b in others]).sum()
        scale = dot.clamp(max=0) / square.clamp(min=1e-30)
        apply([a - scale * b + b for a, b in zip(own, others, strict=True)])
