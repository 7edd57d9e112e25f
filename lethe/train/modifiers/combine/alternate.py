"""One optimiser step for each term in turn, with a shared optimiser state."""

from __future__ import annotations

from collections.abc import Sequence

from lethe.core.config import config
from lethe.train.modifiers.combine import Apply, Ask


@config
class Alternate:
    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        for term in terms:
            apply(gradients([term]))
