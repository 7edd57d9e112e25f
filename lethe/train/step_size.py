"""Step size: backtracking. A learning rate at which weights become NaN or infinite is lowered, and the call starts again.

    η ← η/√10,  θ ← θ at the start of the call;   when weights are not finite within the first WINDOW of the steps

Published learning rates belong to published models; on another model (other scales) the same number can be far too large.
Every method gets this from the loop; none needs code for it. Where the published rate holds, nothing is repeated and the result
is bit for bit that of the published rate. Weights that break later mean that the method has gone too far, not that its steps are
too large: then the run ends at its last sound point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from lethe.core.parked import put, release

SHRINK = 10**-0.5   # two tries are a factor of ten                                                      [ours]
WINDOW = 0.25       # share of a call's steps within which a fall is blamed on the learning rate         [ours]


class StepSize:
    """The learning rate of one run beside the one that its method requested.

    tries  how often it may be lowered
    """

    def __init__(self, tries: int = 0) -> None:
        self.tries, self.lowered = tries, 0
        self.start: dict[str, Tensor] = {}

    @property
    def share(self) -> float:
        """Share of the requested learning rate: SHRINK to the power of how often it was lowered."""
        return SHRINK**self.lowered

    def begin(self, moving: Mapping[str, Tensor], origin: Mapping[str, Tensor] = MappingProxyType({})) -> None:
        """A call starts with these tensors. origin: those of the original, which is kept in any case; large others go into a
        file."""
        self.start = {}
        if self.tries:
            same = {name: origin[name] for name, value in moving.items() if _same(value, origin.get(name))}
            self.start = same | put({name: value for name, value in moving.items() if name not in same})
            release(same.values())

    def may_lower(self, step: int, total: int) -> bool:
        """Whether a fall at this step leads to another try."""
        return self.lowered < self.tries and step <= math.ceil(WINDOW * total)

    def lower(self, moving: Mapping[str, Tensor]) -> None:
        """Put the start of the call back and lower the rate."""
        self.lowered += 1
        with torch.no_grad():
            for name, value in self.start.items():
                moving[name].copy_(value)
        release(self.start.values())


def _same(value: Tensor, other: Tensor | None) -> bool:
    """Whether a tensor is another, whole one bit for bit."""
    return (other is not None and not hasattr(value, "placements") and value.device == other.device
            and value.dtype == other.dtype and value.shape == other.shape and torch.equal(value, other))
