"""What an audit leaves behind: values with intervals, the yardstick of retrained models, and a verdict. No torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

INSIDE, OUTSIDE, NO_POWER, NO_YARDSTICK, SHOWN = "inside", "outside", "not enough power", "no yardstick", "shown"


@dataclass(frozen=True)
class Value:
    """One measured number of one model with its 95 % interval (None where none is defined) and sample count."""

    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    per_sample: Sequence[float] | None = None   # kept out of JSON summaries; the report draws histograms from it
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
    p, p_holm   two-sided p-value against the yardstick's prediction distribution, raw and Holm-corrected in its tier
    original    the same value of the untouched model: the positive control
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
    note: str = ""
    per_sample: Sequence[float] | None = None
    detail: dict[str, Any] = field(default_factory=dict)

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
