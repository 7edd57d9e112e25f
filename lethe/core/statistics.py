"""Statistics of reporting: intervals, ROC, bootstrap, multiplicity. numpy and (lazily) scipy; vectorised, seeded."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def prediction_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float, float]:
    """(mean, sd, low, high): where one more draw from the same normal law falls with probability `level`.

    mean ± t_{(1+level)/2, n−1} · s · √(1 + 1/n), n ≥ 2.
    """
    from scipy.stats import t

    x = np.asarray(values, dtype=float)
    n, mean, sd = len(x), float(x.mean()), float(x.std(ddof=1))
    half = float(t.ppf((1 + level) / 2, n - 1)) * sd * math.sqrt(1 + 1 / n)
    return mean, sd, mean - half, mean + half


def prediction_p(value: float, values: Sequence[float]) -> float:
    """Two-sided p-value of one more draw being at least as far from the mean as `value`; 1 or 0 when all are equal."""
    from scipy.stats import t

    x = np.asarray(values, dtype=float)
    n, mean, sd = len(x), x.mean(), x.std(ddof=1)
    if sd == 0:
        return 1.0 if math.isclose(value, float(mean), rel_tol=1e-9, abs_tol=1e-12) else 0.0
    return float(2 * t.sf(abs(value - mean) / (sd * math.sqrt(1 + 1 / n)), n - 1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given."""
    order = np.argsort(p)
    adjusted, running = np.empty(len(p)), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = running
    return [float(a) for a in adjusted]


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion."""
    from scipy.stats import norm

    z = float(norm.ppf((1 + level) / 2))
    p = successes / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def mean_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """t-interval of a mean."""
    from scipy.stats import t

    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return float("nan"), float("nan")
    half = float(t.ppf((1 + level) / 2, len(x) - 1)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return float(x.mean()) - half, float(x.mean()) + half
