"""The shortest mixture of two gradients, along which neither loss rises to first order.

MGDA, Désidéri 2012, and Sener & Koltun 2018, arXiv:1810.04650, for one term against the sum of the others:
g = s·g_1 + (1 − s)·g_2 with s in [0, 1] and ‖g‖ least. Weights of the terms count only by their effect on s.
"""

from __future__ import annotations

from collections.abc import Sequence

from lethe.core.config import config
from lethe.train.modifiers.combine import Apply, Ask, apart, inner


@config
class Pareto:
    first: str = "forget"       # the term on one side; without a term of this name, the first [e.g. retain]

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        if len(terms) < 2:
            return apply(gradients(terms))
        own, others = apart(terms, self.first, gradients)
        away = [b - a for a, b in zip(own, others, strict=True)]
        share = (inner(away, others) / inner(away, away).clamp(min=1e-30)).clamp(0, 1)
        apply([share.to(a.dtype) * a + (1 - share).to(a.dtype) * b for a, b in zip(own, others, strict=True)])
