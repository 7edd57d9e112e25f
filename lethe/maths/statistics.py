"""Statistics of reporting: intervals, ROC, bootstrap, multiplicity. numpy and (lazily) scipy; vectorised, seeded.

Coverage of nominal 95 % intervals in 2000 simulated audits (normal scores; standard error of these shares 0.5 %): AUC
94.5–95.9 % for true AUC 0.5 to 0.92 with 25–100 members and 40–800 others, but 92.3 % at AUC 0.98 with 60; TPR at
1 and 5 % FPR 94.1–98.5 %; mean of exponential draws 91.5 % (n = 20), 94.1 % (60), 95.6 % (400), of normal draws
94–95 %; Wilson 94–97 % and Clopper–Pearson 96–99 % (n = 60, 400); prediction interval from 4, 8, 16 references
94.8–95.3 %. NaN scores give a NaN area and no rate: a model that answers NaN is never called average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = Sequence[float] | np.ndarray


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
    if x.min() == x.max():   # rounding of the mean would give them a spread
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
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))   # rounding: −3e−18


def mean_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """t-interval of a mean."""
    from scipy.stats import t

    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return float("nan"), float("nan")
    half = float(t.ppf((1 + level) / 2, len(x) - 1)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return float(x.mean()) - half, float(x.mean()) + half


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion: never less than `level`, wider than Wilson's."""
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(beta.ppf(1 - tail, successes + 1, n - successes))
    return low, high


def paired_p(differences: Floats) -> float:
    """Two-sided p-value of the mean of paired differences being 0 (t-test over the sample)."""
    from scipy.stats import t

    d = np.asarray(differences, dtype=float)
    mean, sd = float(d.mean()), float(d.std(ddof=1)) if len(d) > 1 else math.nan
    if not sd > 0:   # all equal, or a single example: the sample shows nothing of its own spread
        return 1.0 if mean == 0 or len(d) < 2 else 0.0
    return float(2 * t.sf(abs(mean) / (sd / math.sqrt(len(d))), len(d) - 1))


def difference_interval(
    value: float, others: Floats, sampling: float, n: int | None = None, level: float = 0.90
) -> tuple[float, float]:
    """Interval of value − (expected value of retrained models), for two one-sided tests (TOST, Schuirmann 1987).

    d ± t_{(1+level)/2, ν} · √(a + b), a = s²/R from R seeds, b = sampling² from the sample of n examples,
    ν = (a + b)²/(a²/(R − 1) + b²/(n − 1)) (Welch–Satterthwaite). Equivalent within ±δ at 5 % where the 90 % interval
    lies in ±δ; the smallest such δ is max(|low|, |high|).
    """
    from scipy.stats import norm, t

    x = np.asarray(others, dtype=float)
    a, b = float(x.var(ddof=1)) / len(x), sampling**2
    loose = a * a / (len(x) - 1) + (b * b / (n - 1) if n is not None and n > 1 else 0.0)
    tail = (1 + level) / 2
    quantile = float(t.ppf(tail, (a + b) ** 2 / loose)) if loose > 0 else float(norm.ppf(tail))
    gap, half = value - float(x.mean()), quantile * math.sqrt(a + b)
    return gap - half, gap + half


# -- attacks: members against non-members, a higher score is more member-like --------------------------------------


def auc(members: Floats, others: Floats) -> float:
    """P(member's score > other's) + ½·P(equal). 0.5 is chance; negating the scores gives 1 − AUC. NaN for NaN."""
    return float(placements(members, others).mean())


def placements(members: Floats, others: Floats) -> np.ndarray:
    """For each member the share of `others` that scores lower, ties by half; their mean is the AUC.  [m], [n] -> [m]"""
    x, ordered = np.asarray(members, dtype=float), np.sort(np.asarray(others, dtype=float))
    if np.isnan(x).any() or np.isnan(ordered).any():   # sorted last, NaN would count as the highest score
        return np.full(len(x), np.nan)
    return (np.searchsorted(ordered, x, "left") + np.searchsorted(ordered, x, "right")) / (2 * len(ordered))


def auc_interval(members: Floats, others: Floats, level: float = 0.95) -> tuple[float, float, float]:
    """(AUC, low, high) by DeLong et al. 1988: Var = Var(V₁₀)/m + Var(V₀₁)/n of the placements, on the logit scale.

    Where that variance vanishes (an area of 0 or 1, scores that are all equal), Wilson's interval with the smaller of
    m and n. Three times NaN for NaN.
    """
    from scipy.stats import norm

    v10, v01 = placements(members, others), 1 - placements(others, members)
    area, m, n = float(v10.mean()), len(v10), len(v01)
    if math.isnan(area):
        return area, area, area
    se = math.sqrt(v10.var(ddof=1) / m + v01.var(ddof=1) / n) if min(m, n) > 1 else 0.0
    if se == 0 or area in (0.0, 1.0):
        return area, *wilson(area * min(m, n), min(m, n), level)
    centre, half = math.log(area / (1 - area)), float(norm.ppf((1 + level) / 2)) * se / (area * (1 - area))
    return area, 1 / (1 + math.exp(half - centre)), 1 / (1 + math.exp(-centre - half))


@dataclass(frozen=True)
class Roc:
    """Shares of members (`tpr`) and of others (`fpr`) that score at least each threshold; thresholds fall from +∞."""

    fpr: np.ndarray
    tpr: np.ndarray


def roc(members: Floats, others: Floats) -> Roc:
    """The attack's ROC, one point per distinct score."""
    x, y = np.sort(np.asarray(members, dtype=float)), np.sort(np.asarray(others, dtype=float))
    cut = np.concatenate([[np.inf], np.unique(np.concatenate([x, y]))[::-1]])
    return Roc(1 - np.searchsorted(y, cut, "left") / len(y), 1 - np.searchsorted(x, cut, "left") / len(x))


@dataclass(frozen=True)
class TprAtFpr:
    """True-positive rate at the lowest threshold whose false-positive rate is at most alpha, with its counts."""

    tpr: float
    low: float
    high: float
    hits: int           # members above the threshold
    false_alarms: int   # others above the threshold
    threshold: float


def tpr_at_fpr(
    members: Floats, others: Floats, alpha: float, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> TprAtFpr | None:
    """TPR at FPR ≤ alpha, never interpolated; None when alpha < 1/n (n others cannot resolve it) or for NaN.

    The threshold is the k-th largest of the others, k = ⌊alpha·n⌋ + 1; hits score strictly more. Interval: stratified
    bootstrap that chooses the threshold anew in each resample, joined with Clopper–Pearson, which it falls below near 0
    and 1. No resample is drawn: its k-th largest is the ⌈n·U⌉-th largest of the others, U ~ Beta(k, n − k + 1), and its
    hits are binomial. Equal in distribution to `reference_bootstrap`, 0.7 ms instead of 29 ms (2000 resamples, 100
    members, 800 others, one core, median of 7).
    """
    x, y = np.sort(np.asarray(members, dtype=float)), np.sort(np.asarray(others, dtype=float))[::-1]
    m, n = len(x), len(y)
    if alpha < 1 / n or np.isnan(x).any() or np.isnan(y).any():
        return None
    k = min(int(alpha * n + 1e-9) + 1, n)
    threshold = float(y[k - 1])
    hits = m - int(np.searchsorted(x, threshold, "right"))
    rng = np.random.default_rng(seed)
    place = np.minimum((n * rng.beta(k, n - k + 1, resamples)).astype(int), n - 1)
    drawn = rng.binomial(m, (m - np.searchsorted(x, y[place], "right")) / m) / m
    tail = (1 - level) / 2
    low, high = (float(q) for q in np.quantile(drawn, [tail, 1 - tail]))
    exact = clopper_pearson(hits, m, level)
    false_alarms = int((y > threshold).sum())
    return TprAtFpr(hits / m, min(low, exact[0]), max(high, exact[1]), hits, false_alarms, threshold)


def reference_bootstrap(members: np.ndarray, others: np.ndarray, alpha: float, resamples: int, seed: int) -> np.ndarray:
    """TPR at FPR ≤ alpha of `resamples` stratified resamples, drawn as index: what `tpr_at_fpr` shortens.  -> [B]"""
    rng = np.random.default_rng(seed)
    k = min(int(alpha * len(others) + 1e-9) + 1, len(others))
    y = np.sort(others[rng.integers(0, len(others), (resamples, len(others)))], 1)[:, -k]
    shares: np.ndarray = (members[rng.integers(0, len(members), (resamples, len(members)))] > y[:, None]).mean(1)
    return shares


def student_predictive(
    draws: np.ndarray, prior: float = 2.0, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, Any]:
    """(location, scale, degrees of freedom) of the next draw per column, from few.  [k, n] -> [n], [n], scalar

    Normal likelihood, Normal-Inverse-Gamma prior on each column's (μ, σ²) fitted to all columns: shape a₀ = `prior`,
    b₀ = (a₀ − 1)·pooled variance, and a flat prior on μ:
        a = a₀ + (k − 1)/2,  b = b₀ + ½ Σ (x − x̄)²,  next draw ~ t_{2a}(x̄, b/a·(1 + 1/k)).
    A bridge between one variance for all (a₀ → ∞) and each column's own (a₀ → 0: the usual prediction interval).
    mask [k, n] selects the draws that count, at least one in each column; k and the degrees of freedom are then [n].
    """
    k: Any = len(draws) if mask is None else mask.sum(0)
    mean, squares = moments(draws, mask)
    pooled = float(squares.sum() / max(np.broadcast_to(k - 1, squares.shape).sum(), 1))
    a, b = prior + (k - 1) / 2, (prior - 1) * pooled + squares / 2
    return mean, np.sqrt(np.maximum(b / a * (1 + 1 / k), 1e-24)), 2 * a


def moments(draws: np.ndarray, mask: np.ndarray | None = None, centre: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(mean, Σ (x − centre)²; centre: the mean) of the draws that count, per column.  [k, n] -> [n], [n]

    In matrix products: 4 times faster than numpy's `where=` with 32 draws of 20 000.
    """
    if mask is None:
        kept, k = draws, np.full(draws.shape[1], len(draws))
    else:
        kept, k = np.where(mask, draws, 0.0), mask.sum(0)
    mean = np.ones(len(draws)) @ kept / k
    off = draws - (mean if centre is None else centre)
    off = off if mask is None else np.where(mask, off, 0.0)
    return mean, np.einsum("kn,kn->n", off, off)
