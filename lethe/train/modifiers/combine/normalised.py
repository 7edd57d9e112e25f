"""One term's gradient is given the length of the sum of the others before they are added.

The normalisation of MUDMAN, Sondej et al. 2025, arXiv:2506.12484, relative to the other terms instead of to 1, so that a
learning rate keeps its meaning. A forget loss that is flat (all fitted) or steep (running away) then pushes as hard as what
holds against it.
"""

from __future__ import annotations

from collections.abc import Sequence

from lethe.core.config import NonNegative, config
from lethe.train.modifiers.combine import Apply, Ask, apart, inner


@config
class Normalised:
    yields: str = "forget"      # the term whose length is set; without a term of this name, the first [e.g. retain]
    ratio: NonNegative = 1.0    # its length as a multiple of the others'

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        if len(terms) < 2:
            return apply(gradients(terms))
        own, others = apart(terms, self.yields, gradients)
        scale = self.ratio * (inner(others, others) / inner(own, own).clamp(min=1e-30)).sqrt()
        apply([scale.to(a.dtype) * a + b for a, b in zip(own, others, strict=True)])
