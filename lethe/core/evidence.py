"""What an audit leaves behind: values with intervals, what they are held against, verdicts, and the conclusion. No torch.

The strongest conclusion, 'inside', needs models retrained without the forget data. Weaker yardsticks (the null value of an
attack, the original's neighbours) can find a model out; they cannot clear it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

INSIDE, OUTSIDE, NO_POWER, NO_YARDSTICK, SHOWN = "inside", "outside", "not enough power", "no yardstick", "shown"
STILL_KNOWS, OVER_FORGOTTEN, DIFFERS = "still knows", "over-forgotten", "differs"
RETRAINED, HOLDOUT, RASHOMON = "retrained", "holdout", "rashomon"


@dataclass(frozen=True)
class Value:
    """One measured number of one model with its 95 % interval (None where none is defined) and sample count."""

    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    per_sample: Any = None   # [n] numbers; kept out of JSON summaries; the report draws histograms from it
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Yardstick:
    """What a value is held against.

    kind  retrained  the value over models retrained without the forget data; low to high is where one more would be (95 %)
          holdout    weaker: the value of a model to which the forget set is like unseen data, and its 95 % interval
          rashomon   weaker: the original's neighbours, as good as it on retained data; they, too, know the forget set
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float
    values: tuple[float, ...] = ()
    kind: str = RETRAINED


@dataclass(frozen=True)
class Evidence:
    """A value, what it is held against, and what follows.

    verdict     inside | outside | not enough power | no yardstick | shown (reported, not judged)
    side        '+' or '−' when outside: above or below the yardstick
    p, p_holm   two-sided p-value against the yardstick's prediction distribution, raw and corrected (Holm in its tier,
                times the number of tiers)
    original    the same value of the untouched model: the positive control
    original_outside  whether the control was found out
    distance    how far from retraining, without telling in which direction
    aspect      what the metric looks at: behaviour | representation | recovery
    margin      declared difference from retraining that does not matter; None: none was declared
    equivalent  whether the 90 % interval of the difference lies within ±margin (TOST); None: not tested
    smallest_margin  the smallest margin that would pass
    """

    audit: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int | None
    definition: str
    range: tuple[float, float]
    better: str
    tier: str
    version: int
    verdict: str
    side: str = ""
    p: float | None = None
    p_holm: float | None = None
    yardstick: Yardstick | None = None
    original: float | None = None
    original_outside: bool | None = None
    seconds: float = 0.0
    per_sample: Any = None
    detail: dict[str, Any] = field(default_factory=dict)
    distance: bool = False
    aspect: str = "behaviour"
    margin: float | None = None
    equivalent: bool | None = None
    smallest_margin: float | None = None

    @property
    def kind(self) -> str:
        """Of the yardstick; '' without one."""
        return "" if self.yardstick is None else self.yardstick.kind

    @property
    def gap(self) -> float | None:
        """Signed distance to the mean of the yardstick."""
        return None if self.yardstick is None else self.value - self.yardstick.mean

    @property
    def direction(self) -> str:
        """Of a value outside: 'still knows' on the side of an original that was found out, 'over-forgotten' on the other side.

        'differs' for a distance, which has no sides, and on the side of an original that was not found out.
        """
        gap = self.gap
        if self.verdict != OUTSIDE or gap is None:
            return ""
        if self.distance or not math.isfinite(gap):
            return DIFFERS
        if self.original is None or self.yardstick is None:
            return DIFFERS
        if gap * (self.original - self.yardstick.mean) <= 0:
            return OVER_FORGOTTEN
        return STILL_KNOWS if self.original_outside else DIFFERS

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, without per-sample values; NaN and infinity become None."""
        data = dataclasses.asdict(dataclasses.replace(self, per_sample=None))
        data.pop("per_sample")
        return _finite(data)




















def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
