"""Leakage over sampled answers: leak@k without bias, and upper bounds that hold with a given probability.

    leak@k = 1 − C(n − c, k)/C(n, k)        c of n samples leak; the mean over draws of k of them (arXiv:2511.04934, after
                                            Chen et al. 2021, arXiv:2107.03374)
    bounds after Scholten, Günnemann & Schwinn, ICLR 2025, arXiv:2410.03523, each exceeded with probability at most α:
    share    Clopper–Pearson's upper end: P(leak)                                     (their binary metric)
    cdf      1 − F_n(x) + ε, ε = √(ln(1/α)/2n): P(score > x) for all x                 (their general metric; DKW, one-sided)
    mean     ε + mean score, at most 1: E score, the integral of that bound            (their expectation metric)
Deviations: the paper's bound on the standard deviation is left out. Over several questions, samples are independent and not
          equally distributed: Clopper–Pearson of the pooled count holds for the mean probability all the same (Hoeffding 1956),
          and so does the pooled mean with the same ε (Hoeffding 1963).
"""

from __future__ import annotations

import math

import numpy as np


def leak_at_k(leaks: np.ndarray, n: int, k: int) -> np.ndarray:
    """The unbiased estimate for each question.  [m] counts c of n -> [m]

    n = 4, c = 1, k = 2: three of the six pairs hold the leak, ½.
    """
    if not 1 <= k <= n:
        raise ValueError(f"leak@{k} of {n} samples is not defined: k lies between 1 and n")
    free = n - np.asarray(leaks, dtype=float)
    drawn = np.arange(k)
    missed: np.ndarray = np.prod(np.clip(free[:, None] - drawn, 0, None) / (n - drawn), axis=1)
    return 1 - missed


def share_bound(leaks: int, n: int, alpha: float) -> float:
    """The probability of a leak is at most this, with probability 1 − α: 1 − α^(1/n) where none of n leaked."""
    from scipy.stats import beta

    return 1.0 if leaks == n else float(beta.ppf(1 - alpha, leaks + 1, n - leaks))


def deviation(n: int, alpha: float) -> float:
    """ε = √(ln(1/α)/2n)."""
    return math.sqrt(math.log(1 / alpha) / (2 * n))


def tail_bound(scores: np.ndarray, x: float, alpha: float) -> float:
    """P(score > x) is at most this for every x at once.  [n] scores of one question"""
    return min(1.0, float((np.asarray(scores) > x).mean()) + deviation(len(scores), alpha))


def mean_bound(scores: np.ndarray, alpha: float) -> float:
    """The expected score is at most this.  scores in [0, 1], of any number of questions"""
    scores = np.asarray(scores, dtype=float)
    return min(1.0, float(scores.mean()) + deviation(scores.size, alpha))
