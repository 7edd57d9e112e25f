"""What an audit leaves behind: values with intervals, the yardstick of retrained models, and a verdict. No torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

INSIDE, OUTSIDE, NO_POWER, NO_YARDSTICK, SHOWN = "inside", "outside", "not enough power", "no yardstick", "shown"
STILL_KNOWS, OVER_FORGOTTEN, DIFFERS = "still knows", "over-forgotten", "differs"


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
    """The same value over models retrained without the forget data, and the 95 % prediction interval of one more."""

    mean: float
    sd: float
    n: int
    low: float
    high: float
    values: tuple[float, ...] = ()


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

    @property
    def gap(self) -> float | None:
        """Signed distance to the mean of the retrained models."""
        return None if self.yardstick is None else self.value - self.yardstick.mean

    @property
    def direction(self) -> str:
        """Of a value outside: 'still knows' on the side of an original that was found out, else 'over-forgotten'.

        'differs' for a distance, which has no sides.
        """
        gap = self.gap
        if self.verdict != OUTSIDE or gap is None:
            return ""
        if self.distance or not math.isfinite(gap):
            return DIFFERS
        if not self.original_outside or self.original is None or self.yardstick is None:
            return OVER_FORGOTTEN
        return STILL_KNOWS if gap * (self.original - self.yardstick.mean) > 0 else OVER_FORGOTTEN

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, without per-sample values; NaN and infinity become None."""
        data = dataclasses.asdict(dataclasses.replace(self, per_sample=None))
        data.pop("per_sample")
        return _finite(data)


@dataclass(frozen=True)
class Conclusion:
    """What the evidence on one model comes to: a verdict and one plain sentence."""

    verdict: str
    text: str


def conclude(items: Sequence[Evidence]) -> Conclusion:
    """The verdict on one model: forgetting outside, else utility outside, no yardstick, no power, or inside.

    'Inside' says that no test told the model from retrained ones, which is not a proof that none could.
    """
    judged = [e for e in items if e.verdict != SHOWN and e.tier in ("forgetting", "utility")]
    forgetting = [e for e in judged if e.tier == "forgetting"]
    utility = [e for e in judged if e.tier == "utility"]
    outside = [e for e in forgetting if e.verdict == OUTSIDE]
    worse = [e for e in utility if e.verdict == OUTSIDE]
    loss = f"Utility is worse than after retraining: {_strongest(worse)}" if worse else ""
    if outside:
        return Conclusion(OUTSIDE, _direction(outside, len(forgetting)) + (f" {loss}." if loss else ""))
    if worse:
        return Conclusion(OUTSIDE, f"{loss}; {_outside_none(forgetting)}.")
    if not judged or all(e.verdict == NO_YARDSTICK for e in judged):
        return Conclusion(NO_YARDSTICK, "No retrained models to compare with: the values are shown without a verdict.")
    inside = [e for e in forgetting if e.verdict == INSIDE]
    if not inside:
        return Conclusion(NO_POWER, "Not enough power: no test of forgetting told even the untouched original from "
                                    "retrained models.")
    weak = sum(e.verdict == NO_POWER for e in forgetting)
    tail = f"; {weak} more had not enough power" if weak else ""
    return Conclusion(INSIDE, f"Not told from retrained models by the {len(inside)} tests of forgetting that find the "
                              f"original out{tail}; utility is not worse.")


def _direction(outside: list[Evidence], count: int) -> str:
    words = {STILL_KNOWS: "Still knows the forget set", DIFFERS: "Differs from retrained models",
             OVER_FORGOTTEN: "Over-forgotten, beyond what retraining does"}
    found = next(d for d in (STILL_KNOWS, OVER_FORGOTTEN, DIFFERS) if any(e.direction == d for e in outside))
    these = [e for e in outside if e.direction == found]
    return f"{words[found]}: {_strongest(these)} ({len(outside)} of {count} tests of forgetting are outside)."


def _strongest(items: list[Evidence]) -> str:
    """The item furthest from the yardstick in its own spread, in words."""
    def far(e: Evidence) -> float:
        width = (e.yardstick.high - e.yardstick.low) if e.yardstick else 0.0
        return math.inf if width == 0 or not math.isfinite(e.value) else abs(e.gap or 0.0) / width

    e = max(items, key=far)
    assert e.yardstick is not None
    return f"{e.metric} is {e.value:.3g}, retrained models have {e.yardstick.low:.3g} to {e.yardstick.high:.3g}"


def _outside_none(forgetting: list[Evidence]) -> str:
    inside = any(e.verdict == INSIDE for e in forgetting)
    return "forgetting is not told from retraining" if inside else "the tests of forgetting had not enough power"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
