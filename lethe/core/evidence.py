"""What an audit produces: values with intervals, their yardsticks, verdicts, and the conclusion. No torch.

The strongest conclusion, 'inside', needs models retrained without the forget data. Weaker yardsticks (the null value of an
attack, the original's neighbours) can detect a difference; they cannot clear a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Verdict = Literal["inside", "outside", "not enough power", "no yardstick", "shown"]   # on one value
Ending = Literal["inside", "outside", "not enough power", "no yardstick", "not examined", "failed"]   # on a whole model
Reply = Literal["yes", "no", "not shown", "cannot be judged"]   # to one question about a model
Side = Literal["", "+", "−"]
Direction = Literal["", "still knows", "over-forgotten", "differs"]
YardstickKind = Literal["retrained", "holdout", "rashomon"]
Better = Literal["match", "lower", "higher"]
Tier = Literal["forgetting", "utility", "cost"]
Aspect = Literal["behaviour", "representation", "recovery"]
Kind = Literal["weights", "adapter", "guard"]   # of what a method returns
Role = Literal["original", "retrained", "method"]   # of a row
Depth = Literal["quick", "standard", "deep"]
Access = Literal["L0", "L1", "L2", "L3"]   # what the audits could use
Objective = Literal["records", "concept", "behaviour"]   # of a request: what is to go
HidingVerdict = Literal["weights", "adapter", "guard", "obfuscation suspected", "not known"]

INSIDE: Final = "inside"
OUTSIDE: Final = "outside"
NO_POWER: Final = "not enough power"
NO_YARDSTICK: Final = "no yardstick"
SHOWN: Final = "shown"
NOT_EXAMINED: Final = "not examined"
FAILED: Final = "failed"
STILL_KNOWS: Final = "still knows"
OVER_FORGOTTEN: Final = "over-forgotten"
DIFFERS: Final = "differs"
RETRAINED: Final = "retrained"
HOLDOUT: Final = "holdout"
RASHOMON: Final = "rashomon"
OBFUSCATION: Final = "obfuscation suspected"
NOT_KNOWN: Final = "not known"


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
    """The yardstick of a value.

    kind  retrained  the value over models retrained without the forget data; low to high is where one more would be (95 %)
          holdout    weaker: the value of a model to which the forget set is like unseen data, and its 95 % interval
          rashomon   weaker: the original's neighbours, as good as it on retained data; they too know the forget set
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float
    values: tuple[float, ...] = ()
    kind: YardstickKind = RETRAINED


@dataclass(frozen=True)
class Evidence:
    """A value, its yardstick, and the verdict.

    verdict     inside | outside | not enough power | no yardstick | shown (reported, not judged)
    side        '+' or '−' when outside: above or below the yardstick
    p, p_joint  two-sided p-value against the yardstick's law, raw and corrected for the number of tests
    law         what gives p and the band at any level (`lethe.judge.band`); not written down
    detectable  the smallest difference from the yardstick's mean that would have been outside; None: unknown
    gap_low, gap_high  95 % interval of the difference from the yardstick's mean, else from the original
    original    the same value of the untouched model: the positive control
    original_outside  whether the control was detected
    distance    whether it measures how far from retraining, without a direction
    aspect      what the metric examines: behaviour | representation | recovery
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
    better: Better
    tier: Tier
    version: int
    verdict: Verdict
    side: Side = ""
    p: float | None = None
    p_joint: float | None = None
    yardstick: Yardstick | None = None
    original: float | None = None
    original_outside: bool | None = None
    seconds: float = 0.0
    per_sample: Any = None
    detail: dict[str, Any] = field(default_factory=dict)
    distance: bool = False
    aspect: Aspect = "behaviour"
    margin: float | None = None
    equivalent: bool | None = None
    smallest_margin: float | None = None
    law: Any = None
    detectable: float | None = None
    gap_low: float | None = None
    gap_high: float | None = None

    @property
    def kind(self) -> YardstickKind | Literal[""]:
        """Of the yardstick; '' without one."""
        return "" if self.yardstick is None else self.yardstick.kind

    @property
    def unsided(self) -> bool:
        """Whether it is outside as utility is, so that a training of another length explains it as well as the forget set."""
        return bool(self.detail.get("unsided"))

    @property
    def gap(self) -> float | None:
        """Signed distance to the mean of the yardstick."""
        return None if self.yardstick is None else self.value - self.yardstick.mean

    @property
    def direction(self) -> Direction:
        """Of a value outside: 'still knows' on the side of a detected original, 'over-forgotten' on the other side.

        'differs' for a distance, which has no sides, on the side of an original that was not detected, and where another
        training would explain the value (`lethe.judge.verdict.controlled`).
        """
        gap = self.gap
        if self.verdict != OUTSIDE or gap is None:
            return ""
        if self.distance or self.unsided or not math.isfinite(gap):
            return DIFFERS
        if self.original is None or self.yardstick is None:
            return DIFFERS
        if gap * (self.original - self.yardstick.mean) <= 0:
            return OVER_FORGOTTEN
        return STILL_KNOWS if self.original_outside else DIFFERS
