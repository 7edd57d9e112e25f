"""Formulas of membership attacks that several audits share. numpy and (lazily) scipy; higher is more member-like.

signal [c]      the attacked model's signal for c candidates (logit-scaled confidence φ for classifiers)
draws [K, c]    the signal of K shadow models for the same candidates
mask [K, c]     which of these draws count: a candidate's shadows that were, or were not, trained on it
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from lethe.maths.statistics import moments, student_predictive

Variance = Literal["predictive", "fixed", "point"]
Centre = Literal["mean", "median"]
FEWEST = 2       # shadows on a side below which no spread is known
PENALTIES = tuple(10.0**k for k in range(-4, 5))   # of ridge regression, per example
TINY = 1e-300    # smallest tail probability that float64 distinguishes from 0


def law(
    draws: np.ndarray, mask: np.ndarray | None = None, variance: Variance = "predictive", centre: Centre = "mean", ddof: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray | float]:
    """(location, scale, degrees of freedom; ∞: Gaussian) of the signal over shadows.  [K, c] -> [c], [c], [c] or scalar

    predictive  Student t of the next draw (`student_predictive`; Brännvall 2026, arXiv:2603.11799, constants ours)
    fixed       one Gaussian spread for all candidates: of the residuals around each candidate's own centre
    point       every candidate's own Gaussian spread
    """
    if variance == "predictive":
        return student_predictive(draws, mask=mask)
    mask = np.ones(draws.shape, dtype=bool) if mask is None else mask
    count = mask.sum(0)
    median = _median(draws, mask, count) if centre == "median" else None
    mean, squares = moments(draws, mask, median if variance == "fixed" else None)
    middle = mean if median is None else median
    if variance == "fixed":
        spread = np.full(len(count), np.sqrt(squares.sum() / max(int((count - ddof).sum()), 1)))
    else:
        spread = np.sqrt(squares / np.maximum(count - ddof, 1))
    return middle, np.maximum(spread, 1e-12), np.inf


def log_ratio(
    signal: np.ndarray,
    draws: np.ndarray,
    inside: np.ndarray,
    variance: Variance = "predictive",
    centre: Centre = "mean",
    ddof: int = 1,
) -> np.ndarray:
    """Λ = log p_in(φ) − log p_out(φ) of each candidate.  [c], [K, c], [K, c] bool -> [c]

    The online ratio of LiRA (Carlini et al. 2022); with shadows that have unlearned, the ratio of U-LiRA.
    """
    worlds = [law(draws, mask, variance, centre, ddof) for mask in (inside, ~inside)]
    member, other = (log_density((signal - m) / scale, freedom) - np.log(scale) for m, scale, freedom in worlds)
    margin: np.ndarray = member - other
    return margin


def log_density(z: np.ndarray, freedom: np.ndarray | float) -> np.ndarray:
    """Of Student's t; of the standard normal law, up to its constant, for ∞ degrees of freedom.  [c] -> [c]"""
    from scipy.stats import t

    return -0.5 * z**2 if np.isinf(freedom).all() else t.logpdf(z, freedom)


def surprise(
    signal: np.ndarray, pool: np.ndarray, variance: Variance = "predictive", mask: np.ndarray | None = None,
    centre: Centre = "mean", ddof: int = 1,
) -> np.ndarray:
    """Λ = −log P(a model that never saw x has at least this signal): offline LiRA.  [c], [K, c] -> [c]"""
    from scipy.stats import norm, t

    location, scale, freedom = law(pool, mask, variance, centre, ddof)
    z = (signal - location) / scale
    score: np.ndarray = -norm.logsf(z) if np.isinf(freedom).all() else -np.log(np.maximum(t.sf(z, freedom), TINY))
    return score


def two_sided(inside: np.ndarray) -> np.ndarray:
    """Which candidates have enough shadows on either side.  [K, c] bool -> [c] bool"""
    count = inside.sum(0)
    enough: np.ndarray = (count >= FEWEST) & (len(inside) - count >= FEWEST)
    return enough


def log_mean(log_p: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """log of the mean probability of each column over the rows that count; NaN where none does.  [K, n] -> [n]"""
    mask = np.ones(log_p.shape, dtype=bool) if mask is None else mask
    top = log_p.max(0)
    count = mask.sum(0)
    total = np.exp(log_p - top).sum(0, where=mask)
    with np.errstate(divide="ignore", invalid="ignore"):   # columns without a row that counts
        return np.where(count > 0, top + np.log(total / count), np.nan)


def log_online(log_p: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """log ½(mean over shadows trained on x + mean over the others).  [K, n], [K, n] bool -> [n]"""
    with np.errstate(invalid="ignore"):   # NaN where one side has no shadow
        log_both: np.ndarray = np.logaddexp(log_mean(log_p, inside), log_mean(log_p, ~inside)) - np.log(2)
        return log_both


def best_threshold(members: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """(τ, advantage): the τ that maximises P(member ≥ τ) − P(other ≥ τ), exactly, in O(n log n).  [m], [n]

    Only members' scores can be the best τ: lowering it between two of them only adds others. Ties: the highest τ.
    """
    x, y = np.sort(np.asarray(members, dtype=float)), np.sort(np.asarray(others, dtype=float))
    gain = (len(x) - np.searchsorted(x, x, "left")) / len(x) - (len(y) - np.searchsorted(y, x, "left")) / len(y)
    best = len(x) - 1 - int(np.argmax(gain[::-1]))
    return float(x[best]), float(gain[best])


def reference_best_threshold(members: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """`best_threshold` by trying every score: O(n²)."""
    tried = [(float((members >= t).mean() - (others >= t).mean()), float(t)) for t in np.unique(members)]
    gain, threshold = max(tried)
    return threshold, gain


def ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(predictions for `new`, leave-one-out predictions) of linear ridge regression on standardised columns.  [n, d], [n], [m, d]

    The penalty is the one of `PENALTIES` with the smallest leave-one-out squared error; all of them from one SVD:
    e_i = r_i / (1 − h_i), h_i = 1/n + Σ_j u_ij² s_j²/(s_j² + λ).
    """
    centre, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    u, s, vt = np.linalg.svd((x - centre) / scale, full_matrices=False)
    along = u.T @ (y - y.mean())
    best = (np.inf, np.zeros(0), np.zeros(0))
    for penalty in PENALTIES:
        shrink = s**2 / (s**2 + penalty * len(x))
        residual = y - y.mean() - u @ (shrink * along)
        left_out = residual / np.maximum(1 - 1 / len(x) - u**2 @ shrink, 1e-12)
        error = float((left_out**2).mean())
        if error < best[0]:
            weights = vt.T @ (along * s / (s**2 + penalty * len(x)))
            best = error, y.mean() + (new - centre) / scale @ weights, y - left_out
    return best[1], best[2]


def _median(draws: np.ndarray, mask: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Median of each column over the draws that count.  [K, c] -> [c]"""
    ordered = np.sort(np.where(mask, draws, np.inf), 0)
    ends = np.stack([(count - 1) // 2, count // 2])
    median: np.ndarray = np.take_along_axis(ordered, ends, 0).mean(0)
    return median
