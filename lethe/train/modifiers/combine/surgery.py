"""One term's gradient loses its part against the sum of the others before they are added.

PCGrad, Yu et al. 2020, arXiv:2001.06782, with the projection one-sided: only the term `yields` gives way. For forgetting this is
GRU, Wang et al. 2025, arXiv:2503.09117, without its moving average of the retained gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

from lethe.core.config import config
from lethe.train.modifiers.combine import Apply, Ask, apart, inner


@config
class Surgery:
    yields: str = "forget"      # the term that gives way; without a term of this name, the first [e.g. retain]

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        if len(terms) < 2:
            return apply(gradients(terms))
        own, others = apart(terms, self.yields, gradients)
        scale = inner(own, others).clamp(max=0) / inner(others, others).clamp(min=1e-30)
        apply([a - scale.to(a.dtype) * b + b for a, b in zip(own, others, strict=True)])
