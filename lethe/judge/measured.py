"""Values with their intervals from per-example numbers: what most audits return."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lethe.core.evidence import Value
from lethe.maths.statistics import auc_interval, mean_interval, roc, tpr_at_fpr, wilson

RATES = (0.01, 0.05, 0.1)   # false-positive rates at which attacks are reported
POINTS = 60                 # of a ROC that are kept
BINS = 24                   # of a histogram of scores
FEWEST = 10                 # unseen rows below which a distance has no placebo
Z = 1.959964                # normal quantile of a 95 % interval


def mean_value(metric: str, x: np.ndarray) -> Value:
    """The mean of per-example values: Wilson's interval when all are 0 or 1, else the t-interval.  [n] -> Value"""
    low, high = wilson(float(x.sum()), len(x)) if np.isin(x, (0.0, 1.0)).all() else mean_interval(x)
    known = math.isfinite(low) and math.isfinite(high)
    return Value(metric, float(x.mean()), low if known else None, high if known else None, len(x), x)


def excess_value(metric: str, forget: np.ndarray, placebo: np.ndarray) -> Value:
    """The mean distance on the forget set in units of the one on unseen rows, with its interval.  [n], [m] -> Value

    A model that differs everywhere (another recipe, a wrong forget file) differs by as much on both, and has 1. Without unseen
    rows, or where nothing differs on them, it is the distance itself.
    """
    value = mean_value(metric, forget)
    if len(placebo) < FEWEST or not placebo.mean() > 0:
        return value
    here, there = float(forget.mean()), float(placebo.mean())
    ratio, rows = here / there, forget / there
    spread = [float(x.var(ddof=1)) / len(x) if len(x) > 1 else 0.0 for x in (forget, placebo)]
    error = math.sqrt(spread[0] + ratio**2 * spread[1]) / there
    low, high = (max(0.0, ratio - Z * error), ratio + Z * error) if error else (None, None)
    return Value(metric, ratio, low, high, len(forget), rows, {"placebo": len(placebo), "unseen": there})


def auc_value(metric: str, members: np.ndarray, others: np.ndarray) -> Value:
    """AUC of an attack with DeLong's interval; n is the smaller count, `detail` has ROC and histogram.  [m], [n] -> Value

    per_sample are the members' scores.
    """
    area, low, high = auc_interval(members, others)
    curve = roc(members, others)
    some = np.unique(np.linspace(0, len(curve.fpr) - 1, POINTS).astype(int))
    detail = {"members": len(members), "others": len(others),
              "roc": {"fpr": curve.fpr[some].round(4).tolist(), "tpr": curve.tpr[some].round(4).tolist()},
              "histogram": histogram(members, others)}
    return Value(metric, area, low, high, min(len(members), len(others)), members, detail)


def histogram(members: np.ndarray, others: np.ndarray) -> dict[str, list[float]]:
    """Counts of both in common bins from the 1st to the 99th percentile; what lies beyond is in the outer bins."""
    both = np.concatenate([members, others])
    low, high = np.percentile(both, [1, 99])
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts = [np.histogram(np.clip(x, edges[0], edges[-1]), edges)[0].tolist() for x in (members, others)]
    return {"edges": edges.tolist(), "forget": counts[0], "holdout": counts[1]}


def worst_value(metric: str, members: np.ndarray, share: float = 0.05) -> Value:
    """Median score over the `share` of members that score highest (at least one): what hides in an average."""
    top = np.sort(members)[-max(1, round(share * len(members))):]
    return Value(metric, float(np.median(top)), n=len(top))


def attack_values(name: str, members: np.ndarray, others: np.ndarray, resamples: int = 2000, **detail: Any) -> list[Value]:
    """`{name}_auc`, `{name}_worst` and `{name}_tpr_at_1` … `_10` of an attack on single examples.  [m], [n] scores"""
    value = auc_value(f"{name}_auc", members, others)
    return [replace(value, detail={**value.detail, **detail}), worst_value(f"{name}_worst", members),
            *tpr_values(name, members, others, resamples)]


def tpr_values(
    name: str, members: np.ndarray, others: np.ndarray, resamples: int = 2000, rates: Sequence[float] = RATES
) -> list[Value]:
    """`{name}_tpr_at_1` … `_10`: TPR at FPR ≤ 1, 5, 10 % with the counts behind it; rates below 1/n are left out."""
    values = []
    for rate in rates:
        found = tpr_at_fpr(members, others, rate, resamples)
        if found is not None:
            detail = {"hits": found.hits, "members": len(members), "false_alarms": found.false_alarms,
                      "others": len(others)}
            values.append(Value(f"{name}_tpr_at_{rate * 100:g}", found.tpr, found.low, found.high, len(members),
                                detail=detail))
    return values
