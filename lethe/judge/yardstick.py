"""Is the yardstick valid? Retrained models that have seen the forget set make every audit powerless, so they are looked for.

Three signs, each over the tests of forgetting:

    unlike the others      a reference is outside against the others: its p-value, corrected for its own tests, corrected once
                           more by Holm over the references
    like the original      several contaminated references hide each other from the first sign. Those nearer to the original
                           than to the median of the references are held against the rest (at least 3), where the
                           original is outside: Student's prediction, Holm over the references, times the tests; and the
                           gap between the two groups must exceed the range of the rest
    all like trained data  `references_seen`: the references score the forget set like data they were trained on

Of 150 simulated clean yardsticks (4, 8, 16 references, 1 or 5 tests, normal values) 3–11 % had a doubt; with the original
30 standard deviations away, 1 contaminated reference of 4, up to 4 of 8 and 8 of 16 were all named. Where contaminated and
clean values overlap, and with more than half contaminated, these signs fail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lethe.core.evidence import OUTSIDE, RETRAINED, Evidence
from lethe.judge.band import ENOUGH
from lethe.judge.calibration import LEVEL
from lethe.judge.conclusions import conclude
from lethe.maths.statistics import clopper_pearson, holm, prediction_p


@dataclass(frozen=True)
class Doubt:
    """A reason to doubt the yardstick. `reference` names one model, '' all of them."""

    reference: str
    metrics: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class FalseAlarms:
    """How many references are called outside when each is held against the others; the exact 95 % interval of the rate."""

    outside: int
    of: int
    low: float
    high: float


def false_alarms(references: Sequence[Sequence[Evidence]]) -> FalseAlarms | None:
    """The tests held against the references themselves, from the evidence on each; None where there are too few."""
    if len(references) <= ENOUGH:
        return None
    outside = sum(conclude(items).verdict == OUTSIDE for items in references)
    low, high = clopper_pearson(outside, len(references))
    return FalseAlarms(outside, len(references), float(low), float(high))


def doubts(references: Mapping[str, Sequence[Evidence]], original: Sequence[Evidence]) -> list[Doubt]:
    """Doubts about retrained models, from the evidence on each (against the others) and on the original."""
    unlike = {key: _unlike(rows) for key, rows in _by_metric(references).items()}
    tests = [e for e in original if e.p is not None and e.tier == "forgetting" and e.kind == RETRAINED]
    like = {(e.audit, e.metric): _like(e, references, len(tests)) for e in tests}
    doubts = []
    for name in references:
        lone = tuple(metric for (_, metric), names in unlike.items() if name in names)
        near = tuple(metric for (_, metric), names in like.items() if name in names)
        if lone or near:
            where = ", ".join(dict.fromkeys(lone + near))
            what = "the untouched model rather than the other references" if near else "none of the others"
            doubts.append(Doubt(name, tuple(dict.fromkeys(lone + near)),
                               f"{name} is like {what} ({where}): was it trained with the forget set?"))
    every = references_seen(original)
    return doubts + ([Doubt("", (), every)] if every else [])


def _by_metric(references: Mapping[str, Sequence[Evidence]]) -> dict[tuple[str, str], dict[str, Evidence]]:
    """(audit, metric) -> reference -> its evidence, of judged tests of forgetting."""
    by_test: dict[tuple[str, str], dict[str, Evidence]] = {}
    for name, items in references.items():
        for e in items:
            if e.tier == "forgetting" and e.p_joint is not None:
                by_test.setdefault((e.audit, e.metric), {})[name] = e
    return by_test


def _unlike(rows: Mapping[str, Evidence]) -> set[str]:
    """References outside against the others, after Holm over the references too."""
    adjusted = holm([e.p_joint if e.p_joint is not None else 1.0 for e in rows.values()])
    return {name for name, p in zip(rows, adjusted, strict=True) if p <= LEVEL}


def _like(original: Evidence, references: Mapping[str, Sequence[Evidence]], tests: int) -> set[str]:
    """References on the original's side of the middle, which the rest of the references do not explain."""
    values = {name: e.value for name, items in references.items() for e in items
              if (e.audit, e.metric) == (original.audit, original.metric) and math.isfinite(e.value)}
    if not values or not math.isfinite(original.value):
        return set()
    middle = float(np.median(list(values.values())))
    near = [name for name, x in values.items() if abs(x - original.value) < abs(x - middle)]
    rest = [x for name, x in values.items() if name not in near]
    if not near or len(rest) < ENOUGH or tests * prediction_p(original.value, rest) > LEVEL:
        return set()
    gap = min(abs(values[name] - x) for name in near for x in rest)
    if gap <= max(rest) - min(rest):   # not two groups: the middle of one group has two sides, too
        return set()
    spare = [1.0] * len(rest)   # the correction is over all references, not over those that were picked
    adjusted = holm([prediction_p(values[name], rest) for name in near] + spare)
    return {name for name, p in zip(near, adjusted, strict=False) if tests * p <= LEVEL}


def references_seen(items: Sequence[Evidence]) -> str:
    """Whether the references treat the forget set as data that they were trained on: one sentence, '' when they do not.

    With f, r, u a reference's mean score on the forget set, on retained and on unseen data: suspicious when
    (f − u)/(r − u) ≥ ½ in the mean over the references, while r − u is more than twice its standard error and f − u more than
    a small forget set brings about (half the width of the original's interval there). Where training leaves no such gap, as in
    a model that generalises well, the scores cannot tell.
    """
    width = {(e.audit, e.metric): (e.high - e.low) / 2 for e in items if e.high is not None and e.low is not None}
    values = {(e.audit, e.metric): e.yardstick.values for e in items if e.yardstick and e.kind == RETRAINED}
    for (audit, metric), forget in values.items():
        prefix, _, score = metric.partition("_")
        retain = values.get((audit, f"retain_{score}"), ())
        unseen = values.get((audit, f"test_{score}")) or values.get((audit, f"holdout_{score}"), ())
        if prefix != "forget" or not len(forget) == len(retain) == len(unseen) >= 3:
            continue
        f, r, u = (sum(row) / len(row) for row in (forget, retain, unseen))
        gaps = [x - y for x, y in zip(retain, unseen, strict=True)]
        error = math.sqrt(sum((g - (r - u)) ** 2 for g in gaps) / (len(gaps) - 1) / len(gaps))
        if abs(r - u) > 2 * error and (f - u) / (r - u) >= 0.5 and abs(f - u) > width.get((audit, metric), 0.0):
            return (f"The references score the forget set ({f:.3g}) like the data that they were trained on ({r:.3g}; data never "
                    f"seen: {u:.3g}): were they all trained with the forget set?")
    return ""
