"""One term moves only the weights that the sum of the others would move the same way.

The disruption mask of MUDMAN, Sondej et al. 2025, arXiv:2506.12484: entries of the forget gradient whose sign differs from the
retained gradient's are 0, so that to first order the step cannot raise the retained loss. Masking by entry removes what a
projection of the whole gradient (`surgery`) may leave, or even enlarge, in single weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from lethe.core.config import config
from lethe.train.modifiers.combine import Apply, Ask, apart


@config
class Disruption:
    yields: str = "forget"      # the term that is masked; without a term of this name, the first [e.g. retain]

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        if len(terms) < 2:
            return apply(gradients(terms))
        own, others = apart(terms, self.yields, gradients)
        apply([a * (a.sign() == b.sign()) + b for a, b in zip(own, others, strict=True)])
