"""combine: how do the gradients of several terms meet? A member is a file of this folder with one config class that has

    step(terms, gradients, apply)

`gradients(names)` returns the gradient of the weighted sum of these terms, `apply` takes one optimiser step with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

Gradients = list[Tensor]                             # one per parameter that moves, in its shape
Ask = Callable[[Sequence[str]], Gradients]           # names of terms -> gradient of their weighted sum
Apply = Callable[[Gradients], None]                  # takes one optimiser step


class Combine(Protocol):
    """What every member of this seam does."""

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        """One step over the named terms."""
        ...
