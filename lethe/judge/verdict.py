"""Verdicts: a value held against the same value of retrained models, corrected for the number of tests, and controlled.

Without retrained models there are two weaker yardsticks (`judge_weakly`). Beside the verdict, which asks whether a model
is distinguishable, stands equivalence, which asks whether it is close enough by a margin declared beforehand.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lethe.core.evidence import (
    HOLDOUT,
    INSIDE,
    NO_POWER,
    NO_YARDSTICK,
    OUTSIDE,
    OVER_FORGOTTEN,
    RASHOMON,
    RETRAINED,
    SHOWN,
    STILL_KNOWS,
    Evidence,
    Side,
    Value,
    Verdict,
    Yardstick,
    YardstickKind,
)
from lethe.core.registry import Audit, Metric
from lethe.judge.answers import part_of
from lethe.judge.band import ENOUGH, Law, Null, Z, law_of, means
from lethe.judge.calibration import ALONE, LEVEL, Family
from lethe.maths.statistics import difference_interval

HALF = 0.5   # of the way from retrained models to the original, which no other training goes


def judge(audit: Audit, value: Value, others: list[Value], before: Value | None, seconds: float = 0.0,
          margin: float | None = None) -> Evidence:
    """Hold one value against the same value of retrained models (`lethe.judge.band`).

    margin  that of the equivalence test, None: no claim is tested
    """
    metric = metric_of(audit, value.metric)
    law: Law | Null | None = law_of(others, metric)
    if "reference" in audit.needs:   # made for references too few for a band
        return _evidence(audit, metric, value, before, seconds, *_of_few(metric, value))
    verdict: Verdict = SHOWN if not judged(metric) else NO_YARDSTICK if law is None else INSIDE
    found = _evidence(audit, metric, value, before, seconds, verdict, law)
    return equivalent(found, value, others, margin)


def judge_weakly(audit: Audit, value: Value, neighbours: list[Value], before: Value | None, seconds: float = 0.0,
                 alike: bool = True) -> Evidence:
    """Where no retrained models exist: against the null value of an attack, else against the original's neighbours.

    alike     whether unseen data like the forget set were there for the attack (`lethe.core.alike`); the null holds only then

    holdout   one-sided: above the null the forget set looks seen; below it, it only differs from the holdout, which no
              retrained model is there to explain.
    rashomon  utility is outside where it is worse than the neighbours'. A test of forgetting has 'not enough power' where
              the value could be a neighbour's: it does not separate the model from the original; it is never inside.
    """
    metric = metric_of(audit, value.metric)
    near, error = law_of(neighbours, metric), sampling_error(value)
    if not judged(metric):
        return _evidence(audit, metric, value, before, seconds, SHOWN, near, RASHOMON)
    if alike and metric.null is not None and metric.tier == "forgetting" and (error > 0 or not math.isfinite(value.value)):
        law = Null(metric.null, error or math.inf, near.values if near else (), metric.range)
        return _evidence(audit, metric, value, before, seconds, INSIDE, law, HOLDOUT)
    if near is None:
        return _evidence(audit, metric, value, before, seconds, NO_YARDSTICK, None)
    if metric.tier == "utility":
        found = _evidence(audit, metric, value, before, seconds, INSIDE, near, RASHOMON)
        return found if before is None else _beside(found, value, before)
    verdict: Verdict = NO_POWER if near.p(value.value) > LEVEL else NO_YARDSTICK
    return _evidence(audit, metric, value, before, seconds, verdict, near, RASHOMON)   # without p: it claims nothing


def _of_few(metric: Metric, value: Value) -> tuple[Verdict, Null | None]:
    """Verdict and law of a test against one retrained model: it decides beside up to `ENOUGH`, and is shown beside more."""
    if value.detail.get("references", 0) > ENOUGH or metric.null is None:
        return SHOWN, None
    return INSIDE, Null(metric.null, sampling_error(value) or math.inf, (), metric.range)


def judged(metric: Metric) -> bool:
    """Whether a metric is held against retrained models, or only shown."""
    return metric.better == "match" or metric.tier == "utility"


def equivalent(found: Evidence, value: Value, others: Sequence[Value], margin: float | None) -> Evidence:
    """The difference from the mean of retrained models with its 95 % interval, and two one-sided tests: within ±margin
    where the 90 % interval is.

    Counted are the seeds of the references and the sample: paired by example where all values are means over the same
    examples, else from the value's own interval; a value without an interval is taken as exact on this forget set.
    """
    numbers = [v.value for v in others if math.isfinite(v.value)]
    if found.p is None or found.yardstick is None:
        return replace(found, margin=margin)
    if not math.isfinite(value.value):
        return replace(found, margin=margin, equivalent=None if margin is None else False)
    error = _paired_error(value, others) or sampling_error(value) * math.sqrt(1 + 1 / len(numbers))
    low, high = difference_interval(value.value, numbers, error, value.n)
    least, most = difference_interval(value.value, numbers, error, value.n, 0.95)
    smallest = max(abs(low), abs(high))
    return replace(found, margin=margin, smallest_margin=smallest, equivalent=None if margin is None else smallest <= margin,
                   gap_low=least, gap_high=most)


def _beside(found: Evidence, value: Value, before: Value) -> Evidence:
    """The 95 % interval of the difference from the original, where there are no retrained models."""
    error = _paired_error(value, [before]) or math.hypot(sampling_error(value), sampling_error(before))
    gap = value.value - before.value
    return replace(found, gap_low=gap - Z * error, gap_high=gap + Z * error)


def sampling_error(value: Value) -> float:
    """The standard error behind the value's 95 % interval; 0 where it has none."""
    if value.low is None or value.high is None or not value.high > value.low:
        return 0.0
    return (value.high - value.low) / (2 * Z)


def _evidence(audit: Audit, metric: Metric, value: Value, before: Value | None, seconds: float, verdict: Verdict,
              law: Law | Null | None, kind: YardstickKind = RETRAINED) -> Evidence:
    """The record of a value beside its law; a judged one is decided as if it were the only test, see `corrected`."""
    found = Evidence(
        audit.name, value.metric, value.value, value.low, value.high, value.n, metric.definition, metric.range,
        metric.better, metric.tier, metric.version, verdict, "", None, None, _yardstick(law, kind, LEVEL),
        before.value if before else None, None, seconds, value.per_sample,
        {**value.detail, "moves": True} if metric.moves else value.detail, metric.distance, metric.aspect,
    )
    if law is None or verdict != INSIDE:
        return found
    return _decided(replace(found, law=law, p=law.p(value.value)), ALONE)


def _decided(found: Evidence, family: Family) -> Evidence:
    """One value as one of a family of tests: its corrected p, its verdict, and the band that decides."""
    assert found.p is not None and found.law is not None and found.yardstick is not None
    p, level = family.joint(part_of(found), found.p), family.level(part_of(found))
    outside, yard = found.p <= level, _yardstick(found.law, found.yardstick.kind, level)
    assert yard is not None
    side: Side = "" if not outside else "+" if found.value > yard.mean else "−"
    arms = [abs(end - yard.mean) for end, bound in zip((yard.low, yard.high), found.range, strict=True)
            if math.isfinite(end) and end != bound]
    return replace(found, p_joint=p, verdict=OUTSIDE if outside else INSIDE, side=side, yardstick=yard,
                   detectable=max(arms, default=None))


def _yardstick(law: Law | Null | None, kind: YardstickKind, level: float) -> Yardstick | None:
    """The yardstick with its band at a level."""
    if law is None:
        return None
    if isinstance(law, Null):
        return Yardstick(law.null, law.sd, len(law.neighbours), *law.band(level), (), kind)
    return Yardstick(law.mean, float(np.std(law.values, ddof=1)), len(law.values), *law.band(level), law.values, kind)


def _paired_error(value: Value, others: Sequence[Value]) -> float:
    """Standard error of value − (mean of the others), paired by example; 0 where they cannot be paired or all agree."""
    rows = [row for v in [value, *others] if (row := means(v)) is not None and len(row) == value.n]
    if len(rows) != 1 + len(others) or len(rows[0]) < 2:
        return 0.0
    apart = rows[0] - np.mean(rows[1:], 0)
    return float(apart.std(ddof=1)) / math.sqrt(len(apart))


def corrected(items: Sequence[Evidence], family: Family) -> list[Evidence]:
    """Every judged value decided as one of all tests of its model, so that a retrained one is outside anywhere with a
    probability of at most `LEVEL`; the band of a test is one for all models, and can be drawn."""
    return [e if e.p is None else _decided(e, family) for e in items]


def controlled(items: list[Evidence], outside: Mapping[tuple[str, str], bool], heir: bool = False) -> list[Evidence]:
    """Not enough power: 'inside' counts for forgetting only where the positive control, the original, was detected.

    And no direction where utility differs as well: a model that never saw the data, trained shorter or longer than the
    references, lies outside in losses, residuals and margins too. There a direction is left to tests that do not move with
    training, and towards the original to values that have gone half of the way to it. An heir of the original has seen the data.
    outside  (audit, metric) -> whether the original is outside
    """
    result = []
    otherwise = not heir and any(e.tier == "utility" and e.verdict == OUTSIDE and e.kind == RETRAINED for e in items)
    for e in items:
        control = outside.get((e.audit, e.metric)) if e.p is not None else None
        powerless = e.tier == "forgetting" and e.verdict == INSIDE and (not control or bool(e.detail.get("undecided")))
        found = replace(e, original_outside=control, verdict=NO_POWER if powerless else e.verdict)
        result.append(replace(found, detail={**e.detail, "unsided": True}) if otherwise and _explained(found) else found)
    return result


def _explained(e: Evidence) -> bool:
    """Whether a test of forgetting is outside as a model that never saw the data, trained otherwise, might be."""
    if (e.tier != "forgetting" or e.kind != RETRAINED or e.direction not in (STILL_KNOWS, OVER_FORGOTTEN)
            or e.original is None or e.yardstick is None or e.value == e.original):
        return False
    share = (e.value - e.yardstick.mean) / ((e.original - e.yardstick.mean) or -math.inf)
    return bool(e.detail.get("moves")) or 0 < share < HALF


def metric_of(audit: Audit, name: str) -> Metric:
    """The declaration of a metric; patterns such as 'accuracy_*' serve groups."""
    if name in audit.metrics:
        return audit.metrics[name]
    for pattern, metric in audit.metrics.items():
        if fnmatch.fnmatch(name, pattern):
            return metric
    raise KeyError(f"audit {audit.name} reports {name!r} without declaring it; declare it in metrics=")


def margin_of(audit: Audit, name: str, margins: Mapping[str, float]) -> float | None:
    """The equivalence margin of a metric: the one requested, by its name or a pattern, else the metric's own."""
    declared = [margin for pattern, margin in margins.items() if fnmatch.fnmatch(name, pattern)]
    return margins.get(name, declared[0] if declared else metric_of(audit, name).margin)
