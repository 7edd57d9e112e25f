"""average: which point of the trajectory is returned? A member is a file of this folder with one config class that has

    update(slow, params, step)

`slow` maps names to the slow weights and is part of the checkpoint; `keeps` says whether there are any, which then are
what the run returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class Average(Protocol):
    """What every member of this seam does."""

    @property
    def keeps(self) -> bool:
        """Whether slow weights are kept and returned."""
        ...

    def update(self, slow: dict[str, Tensor], params: Mapping[str, Tensor], step: int) -> None:
        """Take the weights after a step (counted from 0) into the slow ones, in place."""
        ...
