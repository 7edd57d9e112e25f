"""perturb: how is flatness sought? A member is a file of this folder with one config class that has

    gradients(params, backward) -> gradient to step along

`backward()` computes the gradient at the parameters' present values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn


class Perturb(Protocol):
    """What every member of this seam does."""

    def gradients(self, params: Sequence[nn.Parameter], backward: Callable[[], list[Tensor]]) -> list[Tensor]:
        """The gradient to step along, one tensor per parameter; the parameters are as before when it returns."""
        ...
