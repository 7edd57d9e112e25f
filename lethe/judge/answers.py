"""What people ask of one model, answered from its evidence: forgotten? useful? indistinguishable from retraining? No torch.

    forgotten          does any test that detects the original still see more than retrained models show? One-sided, towards the
                       original. What lies beyond retraining, on the other side, does not count against it: it is conspicuous.
    useful             score lost against retrained models, else against the original, beside the largest loss declared
    indistinguishable  is any judged value outside, on either side? The strict question, also by aspect

Each names the test that decided: its size, and its power, which is the smallest difference that it would have seen. Distances
have no side, so they decide on the third question only. The three share one band for each test: a sign, a picture and an answer
never disagree, and a retrained model is answered 'no' anywhere with a probability of at most 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from lethe.core.evidence import (
    INSIDE,
    NO_POWER,
    NO_YARDSTICK,
    OUTSIDE,
    RETRAINED,
    SHOWN,
    STILL_KNOWS,
    Evidence,
    Reply,
)

YES: Final = "yes"
NO: Final = "no"
NOT_SHOWN: Final = "not shown"
UNKNOWN: Final = "cannot be judged"
# why a question about forgetting has no answer
NO_TEST: Final = "no test of forgetting was carried out"
NO_REFERENCES: Final = "there are no retrained models to compare with"
FEW_REFERENCES: Final = "there are too few retrained models to say where one more would lie, which takes three"
NO_ORIGINAL: Final = "without the original nothing shows that these tests would find the data"
NO_SIDE: Final = "the tests that detect the original measure distances, which do not say on which side a model lies"
OTHERWISE: Final = ("utility differs from that of retrained models too, so a model that never saw the data but was trained "
                    "otherwise might lie where this one lies")
NOTHING: Final = "nothing to find: no test detects the data in the original either"
Part = Literal["behaviour", "representation", "recovery", "utility"]
PARTS: tuple[Part, ...] = ("behaviour", "representation", "recovery", "utility")


@dataclass(frozen=True)
class Decisive:
    """The test that decided.

    size        value − mean of the yardstick
    detectable  the smallest difference that it would have seen; None: unknown
    share       size as a share of what the original shows beyond the yardstick; None where it shows nothing
    low, high   the band that decides
    """

    audit: str
    metric: str
    value: float
    low: float | None
    high: float | None
    size: float
    detectable: float | None
    share: float | None
    n: int | None
    p: float | None


@dataclass(frozen=True)
class Forgotten:
    """tests: how many detect the original and have a side. test: that sees most of what the original shows."""

    answer: Reply
    tests: int
    test: Decisive | None
    why: str


@dataclass(frozen=True)
class Useful:
    """lost: of the score, above 0 where something was lost, with its 95 % interval; against retrained models or the original."""

    answer: Reply
    lost: float | None
    low: float | None
    high: float | None
    margin: float
    against: Literal["retrained", "original", ""]
    metric: str
    n: int | None
    points: bool     # whether the score lies between 0 and 1, so that its hundredths are points
    why: str


@dataclass(frozen=True)
class Side:
    """One aspect of the strict question. test: of those outside the furthest, else the one nearest to its limit."""

    aspect: Part
    answer: Reply
    tests: int
    outside: int
    test: Decisive | None


@dataclass(frozen=True)
class Indistinguishable:
    """tests: those that could have said no."""

    answer: Reply
    tests: int
    outside: int
    test: Decisive | None
    aspects: tuple[Side, ...]
    why: str


@dataclass(frozen=True)
class Answers:
    """The three answers on one model. conspicuous: the test in which it is unlike any model that never saw the data."""

    forgotten: Forgotten
    useful: Useful
    indistinguishable: Indistinguishable
    conspicuous: Decisive | None


def answers(items: Sequence[Evidence], score: str, margin: float, references: int = 0) -> Answers:
    """The answers from the evidence on one model.

    score   what the family's score is called: `test_{score}`, else `holdout_{score}`, else `retain_{score}` says what is lost
    margin  the largest loss of it that does not matter
    references  how many retrained models there are, if only too few for a band
    """
    return Answers(forgotten(items, references), useful(items, score, margin), indistinguishable(items, references),
                   conspicuous(items))


def forgotten(items: Sequence[Evidence], references: int = 0) -> Forgotten:
    """Whether any test that detects the original still sees more than retrained models show."""
    judged = [e for e in items if e.tier == "forgetting" and e.p is not None]
    still = [e for e in judged if e.direction == STILL_KNOWS]
    tests = [e for e in judged if _sided(e)]
    if (whole := kept(items)) is not None:
        return Forgotten(NO, max(1, len(tests)), decisive(whole), "")
    if still:
        return Forgotten(NO, max(len(tests), len(still)), decisive(max(still, key=_seen)), "")
    if any(e.unsided and _near(e) > 0 for e in judged):
        return Forgotten(UNKNOWN, len(tests), None, OTHERWISE)
    if tests:
        return Forgotten(YES, len(tests), decisive(max(tests, key=_near)), "")
    return Forgotten(UNKNOWN, 0, None, _no_answer(items, judged, references))


def kept(items: Sequence[Evidence]) -> Evidence | None:
    """The value that shows by itself that nothing was removed: all of the original's numbers are there. None: no such one."""
    return next((e for e in items if e.detail.get("kept")), None)


def useful(items: Sequence[Evidence], score: str, margin: float) -> Useful:
    """What was lost of the score on unseen data, and whether that is within the margin."""
    names = [f"{part}_{score}" for part in ("test", "holdout", "retain")]
    scored = [e for e in items if e.tier == "utility" and e.better == "higher"]
    ranked = sorted(scored, key=lambda e: names.index(e.metric) if e.metric in names else len(names))
    if not ranked:
        return Useful(UNKNOWN, None, None, None, margin, "", "", None, False, "no score of utility was measured")
    e = ranked[0]
    points, retrained = e.range == (0.0, 1.0), e.kind == RETRAINED
    mean = e.yardstick.mean if retrained and e.yardstick else e.original
    if mean is None or not math.isfinite(mean):
        return Useful(UNKNOWN, None, None, None, margin, "", e.metric, e.n, points,
                      "there are neither retrained models nor an original to compare with")
    lost = mean - e.value
    low, high = (None, None) if e.gap_low is None or e.gap_high is None else (-e.gap_high, -e.gap_low)
    reply: Reply = NO if not lost <= margin else NOT_SHOWN if high is None or high > margin else YES
    return Useful(reply, lost, low, high, margin, "retrained" if retrained else "original", e.metric, e.n, points, "")


def indistinguishable(items: Sequence[Evidence], references: int = 0) -> Indistinguishable:
    """Whether any judged value is outside, and by aspect. Only what was compared with retrained models can answer."""
    judged = [e for e in items if e.verdict != SHOWN and e.tier in ("forgetting", "utility") and e.kind == RETRAINED]
    sides = tuple(_side(part, mine) for part in PARTS if (mine := [e for e in judged if part_of(e) == part]))
    outside = [e for e in judged if e.verdict == OUTSIDE]
    tests = [e for e in judged if e.verdict == INSIDE]
    able = [e for e in tests if e.tier == "forgetting"]
    count = len(tests) + len(outside)
    if outside:
        return Indistinguishable(NO, count, len(outside), decisive(max(outside, key=far)), sides, "")
    if able:
        return Indistinguishable(YES, count, 0, decisive(max(able, key=far)), sides, "")
    asked = [e for e in judged if e.tier == "forgetting"]
    return Indistinguishable(UNKNOWN, count, 0, None, sides, _no_answer(items, asked, references))


def conspicuous(items: Sequence[Evidence]) -> Decisive | None:
    """The test of forgetting in which the model is furthest from any that never saw the data, without still knowing them.

    A distance counts only where nothing shows that the model still knows: that alone would explain it.
    """
    outside = [e for e in items if e.tier == "forgetting" and e.verdict == OUTSIDE and e.kind == RETRAINED]
    knows = any(e.direction == STILL_KNOWS for e in outside)
    odd = [e for e in outside if e.direction != STILL_KNOWS and not (knows and e.distance)]
    return decisive(max(odd, key=far)) if odd else None


def decisive(e: Evidence) -> Decisive:
    """The record of the test that decided."""
    yard, size = e.yardstick, math.nan if e.gap is None else e.gap
    return Decisive(e.audit, e.metric, e.value, yard.low if yard else None, yard.high if yard else None, size, e.detectable,
                    _share(e), e.n, e.p_joint)


def part_of(e: Evidence) -> Part:
    """The aspect of a test, or utility."""
    return "utility" if e.tier == "utility" else e.aspect


def far(e: Evidence) -> float:
    """The distance from the mean of the yardstick, in widths of the band."""
    if e.gap is None or not math.isfinite(e.gap):
        return math.inf
    return abs(e.gap) / e.detectable if e.detectable else (math.inf if e.gap else 0.0)


def _sided(e: Evidence) -> bool:
    """Whether a test detects the original and says on which side of retrained models a value lies."""
    return bool(e.original_outside) and not e.distance and e.kind == RETRAINED and math.isfinite(e.value)


def _side(part: Part, items: Sequence[Evidence]) -> Side:
    outside, inside = [e for e in items if e.verdict == OUTSIDE], [e for e in items if e.verdict == INSIDE]
    reply: Reply = NO if outside else YES if inside else UNKNOWN
    shown = max(outside or inside, key=far, default=None)
    return Side(part, reply, len(outside) + len(inside), len(outside), None if shown is None else decisive(shown))


def _share(e: Evidence) -> float | None:
    """The difference as a share of the original's."""
    if e.gap is None or e.yardstick is None or e.original is None or not e.original_outside:
        return None
    whole = e.original - e.yardstick.mean
    return e.gap / whole if whole and math.isfinite(whole) and math.isfinite(e.gap) else None


def _seen(e: Evidence) -> float:
    """How much of the original's difference is left; of tests without that measure the distance in widths of the band."""
    share = _share(e)
    return far(e) if share is None else share


def _near(e: Evidence) -> float:
    """The signed distance towards the original, in widths of the band: 1 is its edge."""
    toward = 1.0 if e.original is not None and e.yardstick is not None and e.original > e.yardstick.mean else -1.0
    return toward * (e.gap or 0.0) / e.detectable if e.detectable else -math.inf


def _no_answer(items: Sequence[Evidence], judged: Sequence[Evidence], references: int) -> str:
    """Why a question about forgetting has no answer."""
    tests = [e for e in items if e.tier == "forgetting" and e.verdict in (INSIDE, OUTSIDE, NO_POWER, NO_YARDSTICK)]
    if not tests:
        return NO_TEST
    if not any(e.kind == RETRAINED for e in tests):
        return FEW_REFERENCES if references else NO_REFERENCES
    if all(e.original is None for e in judged):
        return NO_ORIGINAL
    if any(e.original_outside for e in judged):
        return NO_SIDE
    return NOTHING
