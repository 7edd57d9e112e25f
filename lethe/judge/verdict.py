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
    RASHOMON,
    RETRAINED,
    SHOWN,
    Evidence,
    Side,
    Value,
    Verdict,
    Yardstick,
    YardstickKind,
)
from lethe.core.registry import Audit, Metric
from lethe.maths.statistics import difference_interval, holm, normal_p, paired_p, prediction_interval, prediction_p, sampling_p

ENOUGH = 3   # references below which no prediction interval is reported
LEVEL = 0.05   # of the joint verdict on a model
Z = 1.959964   # normal quantile of a 95 % interval


def judge(audit: Audit, value: Value, others: list[Value], before: Value | None, seconds: float = 0.0,
          margin: float | None = None) -> Evidence:
    """Hold one value against the same value of retrained models.

    Two things make one retrained model differ from others: its seeds, and the finite sample it is measured on.
    p = max(p_seeds, p_sample): a value is outside only when neither explains it. p_seeds is Student's prediction for
    one more retrained model; where all references agree exactly it is 0 for any difference, and p_sample decides.
    Utility is one-sided: more than retraining has is no fault (p = 1). So is a distance, and it is judged by its
    logarithm: distances of retrained models are positive and skewed.
    margin  that of the equivalence test, None: no claim is tested
    """
    metric = metric_of(audit, value.metric)
    yardstick, p = _band(others, metric), None
    verdict: Verdict = SHOWN
    if judged(metric):
        verdict = NO_YARDSTICK
        if yardstick is not None:
            p = 1.0 if _fine(metric, value.value - yardstick.mean) else difference_p(value, others, metric.distance)
            verdict = OUTSIDE if p <= LEVEL else INSIDE
    found = _evidence(audit, metric, value, before, seconds, verdict, p, yardstick)
    return equivalent(found, value, others, margin)


def judge_weakly(audit: Audit, value: Value, neighbours: list[Value], before: Value | None, seconds: float = 0.0) -> Evidence:
    """Where no retrained models exist: against the null value of an attack, else against the original's neighbours.

    holdout   (value − null) / √(u² + s²), u the value's sampling error (from its interval), s the sd over the neighbours:
              an approximate floor of what seeds do. One-sided: above the null the forget set looks seen; below it, it only
              differs from the holdout, which no retrained model is there to explain.
    rashomon  utility is outside where it is worse than the neighbours'. A test of forgetting has 'not enough power' where
              the value could be a neighbour's: it does not separate the model from the original; it is never inside.
    """
    metric = metric_of(audit, value.metric)
    yardstick, p = None, None
    verdict: Verdict = NO_YARDSTICK if judged(metric) else SHOWN
    band = _band(neighbours, metric, RASHOMON)
    error = sampling_error(value)
    if verdict == SHOWN:
        yardstick = band
    elif metric.null is not None and metric.tier == "forgetting" and (error > 0 or not math.isfinite(value.value)):
        yardstick = _null_band(metric.null, error, band)
        known = math.isfinite(value.value)
        z = (value.value - metric.null) / (yardstick.high - metric.null) * Z if known else math.inf
        p = normal_p(z) / 2 if z > 0 else 1.0
        verdict = OUTSIDE if p <= LEVEL else INSIDE
    elif band is not None:
        yardstick = band
        p = 1.0 if _fine(metric, value.value - band.mean) else difference_p(value, neighbours, metric.distance)
        if metric.tier == "utility":
            verdict = OUTSIDE if p <= LEVEL else INSIDE
        else:
            verdict, p = NO_POWER if p > LEVEL else NO_YARDSTICK, None   # outside Holm's correction: it claims nothing
    return _evidence(audit, metric, value, before, seconds, verdict, p, yardstick)


def judged(metric: Metric) -> bool:
    """Whether a metric is held against retrained models, or only shown."""
    return metric.better == "match" or metric.tier == "utility"


def equivalent(found: Evidence, value: Value, others: Sequence[Value], margin: float | None) -> Evidence:
    """Two one-sided tests: within ±margin where the 90 % interval of value − (mean of retrained models) is.

    Counted are the seeds of the references and the sample: paired by example where all values are means over the same
    examples, else from the value's own interval; a value without an interval is taken as exact on this forget set.
    """
    numbers = [v.value for v in others if math.isfinite(v.value)]
    if found.p is None or found.yardstick is None:
        return replace(found, margin=margin)
    if not math.isfinite(value.value):
        return replace(found, margin=margin, equivalent=None if margin is None else False)
    paired = _paired(value, others)
    error = float(paired.std(ddof=1)) / math.sqrt(len(paired)) if paired is not None and len(paired) > 1 else 0.0
    if not error > 0:   # examples that all agree determine nothing about the next one; the value's own interval does
        error = sampling_error(value) * math.sqrt(1 + 1 / len(numbers))
    low, high = difference_interval(value.value, numbers, error, value.n)
    smallest = max(abs(low), abs(high))
    return replace(found, margin=margin, smallest_margin=smallest, equivalent=None if margin is None else smallest <= margin)


def sampling_error(value: Value) -> float:
    """The standard error behind the value's 95 % interval; 0 where it has none."""
    if value.low is None or value.high is None or not value.high > value.low:
        return 0.0
    return (value.high - value.low) / (2 * Z)


def _evidence(audit: Audit, metric: Metric, value: Value, before: Value | None, seconds: float, verdict: Verdict,
              p: float | None, yardstick: Yardstick | None) -> Evidence:
    side: Side = "" if verdict != OUTSIDE or yardstick is None else "+" if value.value > yardstick.mean else "−"
    return Evidence(
        audit.name, value.metric, value.value, value.low, value.high, value.n, metric.definition, metric.range,
        metric.better, metric.tier, metric.version, verdict, side, p, None, yardstick, before.value if before else None,
        None, seconds, value.per_sample, value.detail, metric.distance, metric.aspect,
    )


def _band(others: Sequence[Value], metric: Metric, kind: YardstickKind = RETRAINED) -> Yardstick | None:
    """The yardstick of at least three finite values."""
    numbers = [v.value for v in others if math.isfinite(v.value)]
    if len(numbers) < ENOUGH:
        return None
    return Yardstick(float(np.mean(numbers)), float(np.std(numbers, ddof=1)), len(numbers), *predicted(numbers, metric),
                     tuple(numbers), kind)


def _null_band(null: float, error: float, neighbours: Yardstick | None) -> Yardstick:
    """The null value ± 1.96·√(sampling error² + sd of the neighbours²)."""
    sd = neighbours.sd if neighbours else 0.0
    half = Z * math.hypot(error, sd)
    return Yardstick(null, sd, neighbours.n if neighbours else 0, null - half, null + half, (), HOLDOUT)


def _fine(metric: Metric, gap: float) -> bool:
    """A difference in the direction that is no fault: better utility, a smaller distance."""
    below = metric.better == "lower" or metric.distance
    return (metric.better == "higher" and gap >= 0) or (below and gap <= 0)


def predicted(numbers: Sequence[float], metric: Metric) -> tuple[float, float]:
    """The 95 % prediction interval, of the logarithm for distances, within the metric's range."""
    if metric.distance and min(numbers) > 0:
        low, high = (math.exp(x) for x in prediction_interval([math.log(x) for x in numbers])[2:])
    else:
        low, high = prediction_interval(numbers)[2:]
    return max(low, min(metric.range[0], *numbers)), min(high, max(metric.range[1], *numbers))


def difference_p(value: Value, others: Sequence[Value], distance: bool = False) -> float:
    """max(p_seeds, p_sample) as in `judge`; 0 for NaN and infinity, which no retrained model has.

    p_sample pairs the model with the mean reference example by example where all values are means over the same
    examples; otherwise it is taken from the value's own interval.
    """
    numbers = [v.value for v in others if math.isfinite(v.value)]
    if not math.isfinite(value.value):
        return 0.0
    if distance and min(value.value, *numbers) > 0:
        seeds = prediction_p(math.log(value.value), [math.log(x) for x in numbers])
    else:
        seeds = prediction_p(value.value, numbers)
    paired = _paired(value, others)
    if paired is not None:
        return max(seeds, paired_p(paired))
    return max(seeds, sampling_p(value.value, numbers, value.low, value.high))


def _paired(value: Value, others: Sequence[Value]) -> np.ndarray | None:
    """Example by example the difference from the mean of the others, where all are means over the same examples.  -> [n]"""
    rows = [row for v in [value, *others] if (row := _means(v)) is not None and len(row) == value.n]
    return rows[0] - np.mean(rows[1:], 0) if len(rows) == 1 + len(others) else None


def _means(value: Value) -> np.ndarray | None:
    """The per-example values when the value is their mean."""
    if value.per_sample is None or not len(value.per_sample):
        return None
    row = np.asarray(value.per_sample, dtype=float)
    return row if math.isclose(float(row.mean()), value.value, rel_tol=1e-6, abs_tol=1e-9) else None


def corrected(items: list[Evidence]) -> list[Evidence]:
    """Holm's correction over the judged values of each tier, times the number of judged tiers; an 'outside' that does
    not survive it becomes 'inside'. So a retrained model is called outside anywhere with probability at most `LEVEL`."""
    result = list(items)
    tiers = {e.tier for e in items if e.p is not None}
    for tier in tiers:
        places = [i for i, e in enumerate(items) if e.tier == tier and e.p is not None]
        for i, alone in zip(places, holm([items[i].p or 0.0 for i in places]), strict=True):
            p = min(1.0, len(tiers) * alone)
            kept = items[i].verdict == OUTSIDE and p <= LEVEL
            side: Side = items[i].side if kept else ""
            result[i] = replace(items[i], p_holm=p, verdict=OUTSIDE if kept else INSIDE, side=side)
    return result


def controlled(items: list[Evidence], outside: Mapping[tuple[str, str], bool]) -> list[Evidence]:
    """Not enough power: 'inside' counts for forgetting only where the positive control, the original, was detected.

    outside  (audit, metric) -> whether the original is outside, after Holm's correction
    """
    result = []
    for e in items:
        control = outside.get((e.audit, e.metric)) if e.p is not None else None
        powerless = e.tier == "forgetting" and e.verdict == INSIDE and not control
        result.append(replace(e, original_outside=control, verdict=NO_POWER if powerless else e.verdict))
    return result


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
