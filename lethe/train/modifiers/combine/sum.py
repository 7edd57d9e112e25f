"""One step along the gradient of the weighted sum."""

from __future__ import annotations

from collections.abc import Sequence

from lethe.core.config import config
from lethe.train.modifiers.combine import Apply, Ask


@config
class Sum:
    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        apply(gradients(terms))
