"""weigh: how much does each example count? A member is a file of this folder with one config class that has

    weights(losses, term) -> [n] weights with mean 1, constant for the gradient, or None when all count the same

The mean is taken over what is seen at once: a batch, or a piece of it when batches are cut (`accumulate`) or shared
among processes.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Weigh(Protocol):
    """What every member of this seam does."""

    def weights(self, losses: Tensor, term: str) -> Tensor | None:
        """Weights of the examples of one term.  losses [n] -> [n] or None"""
        ...
