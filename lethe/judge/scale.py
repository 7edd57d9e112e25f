"""The scale on which a metric is judged: that on which one more model can lie anywhere, so that Student's law fits better.

    range −∞ … ∞      as it is
          low … ∞     log(x − low): what is positive is skewed; −∞ … high: −log(high − x)
          low … high  logit of the share y = (x − low)/(high − low); of k of n examples, of (k + ½)/(n + 1)

It follows from the range that the metric declares. Where a reference lies on the edge itself, and is no count that could be
moved off it, values are judged as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """The range of a metric; n: its values are shares of so many examples, 0: they are no counts."""

    low: float = -math.inf
    high: float = math.inf
    n: int = 0

    def onto(self, x: float) -> float:
        """A value on the scale; ±∞ on an edge and beyond it."""
        if not math.isfinite(x) or (math.isinf(self.low) and math.isinf(self.high)):
            return x
        if math.isinf(self.high):
            return math.log(x - self.low) if x > self.low else -math.inf
        if math.isinf(self.low):
            return -math.log(self.high - x) if x < self.high else math.inf
        share = (x - self.low) / (self.high - self.low)
        share = (self.n * share + 0.5) / (self.n + 1) if self.n else share
        return math.log(share / (1 - share)) if 0 < share < 1 else math.copysign(math.inf, share - 0.5)

    def back(self, y: float) -> float:
        """The value at a place of the scale."""
        if math.isinf(self.low) and math.isinf(self.high):
            return y
        if math.isinf(self.high):
            return self.low + math.exp(min(y, 700.0))
        if math.isinf(self.low):
            return self.high - math.exp(min(-y, 700.0))
        share = 1 / (1 + math.exp(-max(min(y, 700.0), -700.0)))
        share = (share * (self.n + 1) - 0.5) / self.n if self.n else share
        return self.low + share * (self.high - self.low)


PLAIN = Scale()


def scale_of(limits: tuple[float, float], values: Sequence[float], n: int) -> Scale:
    """The scale of a metric with this range, for values of references, each made by n examples (0: unknown)."""
    low, high = limits
    whole = math.isfinite(low) and math.isfinite(high) and n > 0 and all(
        abs(k - round(k)) < 1e-6 for k in (n * (x - low) / (high - low) for x in values))
    scale = Scale(low, high, n if whole else 0)
    return scale if all(math.isfinite(scale.onto(x)) for x in values) else PLAIN
