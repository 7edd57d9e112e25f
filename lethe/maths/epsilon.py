"""ε from the errors of an attack: lower bounds that hold with a stated confidence, and a posterior. Pure mathematics.

(ε, δ)-indistinguishable worlds leave every attack with errors in the region (Kairouz, Oh & Viswanath 2015, arXiv:1311.0776)
    1 − δ ≤ FPR + e^ε·FNR  and  1 − δ ≤ FNR + e^ε·FPR,
so errors that are surely small prove that ε is surely large:
    rates_bound     Clopper–Pearson for both error rates; decisions must be independent  (Jagielski et al. 2020, arXiv:2006.07709)
    gdp_bound       the same under Gaussian DP: tighter, and true only for such a mechanism   (Nasr et al. 2023, arXiv:2302.07956)
    one_run_bound   many canaries in one training run, a fair coin each       (Steinke, Nasr & Jagielski 2023, arXiv:2305.08846)
    fdp_run_bound   one run, under Gaussian DP                  (Mahloujifar, Melis & Chaudhuri 2024, arXiv:2410.22235)
    Posterior       Beta posteriors of both rates carried through the region   (Zanella-Béguelin et al. 2022, arXiv:2206.05199)
A bound of 0 means that this attack showed nothing, not that ε is 0. The upper end of a posterior bounds this attack at this
threshold, not the mechanism. The best of many thresholds needs `split_bound` or `bonferroni_bound`; the naive form
(`best_of_all`) exceeds the true ε of a Laplace mechanism (ε = 1) in 7.7 % of 3000 simulated audits with 500 scores a side, 9.2 %
of 1200 with 2000 and 12.3 % of 300 with 10,000, where it may in 5 %; split in 0.2 % (500 a side), Bonferroni in none. One run
maximised over 25 × 25 guess counts calls a model that knows nothing guilty in 34 % (100 canaries) and 41 % (1000) of 2000 audits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

Number = float | np.ndarray
LARGEST = 64.0   # ε beyond which roots are not sought


def implied(fpr: Number, fnr: Number, delta: float = 0.0) -> np.ndarray:
    """The smallest ε whose region holds (FPR, FNR): max{0, ln((1−δ−FPR)/FNR), ln((1−δ−FNR)/FPR)}; ∞ at a rate of 0."""
    x, y = np.asarray(fpr, dtype=float), np.asarray(fnr, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = [np.log(np.maximum(1 - delta - a, 0)) - np.log(b) for a, b in ((x, y), (y, x))]
    epsilons: np.ndarray = np.fmax(0.0, np.fmax(*ends))
    return epsilons


def highest_rate(errors: Number, n: Number, level: float) -> np.ndarray:
    """Clopper–Pearson's one-sided upper bound of an error rate: I⁻¹(level; errors + 1, n − errors).  elementwise"""
    from scipy.special import betaincinv

    k, n = np.asarray(errors, dtype=float), np.asarray(n, dtype=float)
    return np.where(k >= n, 1.0, betaincinv(k + 1, np.maximum(n - k, 1), level))


def rates_bound(fp: Number, negatives: Number, fn: Number, positives: Number, delta: float = 0.0, level: float = 0.95
                ) -> np.ndarray:
    """ε is at least this with probability `level`, for a threshold that was fixed before.  counts, elementwise

    Each rate gets half of 1 − level. Without errors among n decisions a side it is ln((1 − u)/u), u = 1 − 0.025^{1/n}.
    """
    side = (1 + level) / 2
    return implied(highest_rate(fp, negatives, side), highest_rate(fn, positives, side), delta)


def gdp_bound(fp: int, negatives: int, fn: int, positives: int, delta: float, level: float = 0.95) -> tuple[float, float]:
    """(μ, ε(δ)): lower bounds if the two worlds are Gaussians at distance μ.  μ = Φ⁻¹(1 − FPR) − Φ⁻¹(FNR)"""
    from scipy.special import ndtri

    side = (1 + level) / 2
    fpr, fnr = (float(highest_rate(k, n, side)) for k, n in ((fp, negatives), (fn, positives)))
    mu = max(0.0, -float(ndtri(fpr)) - float(ndtri(fnr)))
    return mu, gdp_epsilon(mu, delta)


def gdp_epsilon(mu: float, delta: float) -> float:
    """ε of μ-Gaussian DP at δ > 0: the root of δ = Φ(−ε/μ + μ/2) − e^ε Φ(−ε/μ − μ/2)."""
    from scipy.optimize import brentq
    from scipy.special import log_ndtr, ndtr

    if mu <= 0:
        return 0.0

    def excess(eps: float) -> float:
        return float(ndtr(-eps / mu + mu / 2) - math.exp(eps + log_ndtr(-eps / mu - mu / 2))) - delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-9))


# -- one run ------------------------------------------------------------------------------------------------------------


def one_run_p(eps: float, right: int, guesses: int, canaries: int, delta: float = 0.0) -> float:
    """P-value of `right` of `guesses` right guesses of fair coins under (ε, δ)-DP.

    β + 2mδ·max_{1≤i≤v} P[v − i ≤ W < v]/i,  W ~ Bin(r, e^ε/(1 + e^ε)), β = P[W ≥ v];  m canaries, v right, r guesses
    """
    from scipy.stats import binom

    q = 1 / (1 + math.exp(-eps))
    beta = float(binom.sf(right - 1, guesses, q))
    if delta == 0 or right == 0:
        return min(1.0, beta)
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, q))
    return min(1.0, beta + 2 * canaries * delta * float((below / np.arange(1, right + 1)).max()))


def one_run_bound(right: int, guesses: int, canaries: int, delta: float = 0.0, level: float = 0.95) -> float:
    """ε is at least this with probability `level`. The number of guesses must be fixed before the scores are seen.

    For δ = 0 in closed form: ln(q/(1 − q)), q the one-sided Clopper–Pearson lower bound of the share of right guesses.
    """
    from scipy.optimize import brentq

    if one_run_p(0.0, right, guesses, canaries, delta) >= 1 - level:
        return 0.0
    if delta == 0:
        wrong = float(highest_rate(guesses - right, guesses, level))
        return math.log1p(-wrong) - math.log(wrong)

    def gap(eps: float) -> float:
        return one_run_p(eps, right, guesses, canaries, delta) - (1 - level)

    return float(brentq(gap, 0.0, LARGEST, xtol=1e-9))


def fdp_run_bound(right: int, guesses: int, canaries: int, delta: float, level: float = 0.95, rounds: int = 4
                  ) -> tuple[float, float]:
    """(μ, ε(δ)): one run under μ-Gaussian DP, f̄(r) = Φ(Φ⁻¹(r) − μ).  c right of c' guesses, m canaries, τ = 1 − level

    r_c = τc/m, h_c = τ(c' − c)/m;  h_i = max(h_{i+1}, f̄(r_{i+1})),  r_i = r_{i+1} + i/(c' − i)·(h_i − h_{i+1}), i = c − 1 … 0;
    μ is refuted when r_0 + h_0 > c'/m. The largest refuted μ is sought on 32 points, `rounds` times finer.
    """
    from scipy.special import ndtr, ndtri

    def refuted(mu: np.ndarray) -> np.ndarray:
        r = np.full_like(mu, (1 - level) * right / canaries)
        h = np.full_like(mu, (1 - level) * (guesses - right) / canaries)
        for i in range(right - 1, -1, -1):
            higher = np.maximum(h, ndtr(ndtri(np.minimum(r, 1.0)) - mu))
            r, h = r + i / (guesses - i) * (higher - h), higher
        exceeds: np.ndarray = r + h > guesses / canaries
        return exceeds

    low, width = 0.0, 10.0
    if not refuted(np.zeros(1))[0]:
        return 0.0, 0.0
    for _ in range(rounds):
        grid = low + width * np.arange(32) / 32
        low, width = float(grid[np.flatnonzero(refuted(grid))[-1]]), width / 32
    return low, gdp_epsilon(low, delta)


# -- thresholds ---------------------------------------------------------------------------------------------------------


def threshold_counts(members: np.ndarray, others: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(false positives, false negatives) of 'score ≥ threshold means member'.  [m], [n], [T] -> [T], [T]"""
    x, y = np.sort(members), np.sort(others)
    return len(y) - np.searchsorted(y, thresholds, "left"), np.searchsorted(x, thresholds, "left")


def all_bounds(members: np.ndarray, others: np.ndarray, delta: float = 0.0, level: float = 0.95
               ) -> tuple[np.ndarray, np.ndarray]:
    """(every distinct threshold, the bound that each would give had it been fixed before).  [m], [n] -> [T], [T]"""
    thresholds = np.unique(np.concatenate([members, others]))
    fp, fn = threshold_counts(members, others, thresholds)
    return thresholds, rates_bound(fp, len(others), fn, len(members), delta, level)


def reference_all_bounds(members: np.ndarray, others: np.ndarray, delta: float = 0.0, level: float = 0.95) -> np.ndarray:
    """The bounds of `all_bounds`, one threshold after the other: what it shortens.  [m], [n] -> [T]"""
    from scipy.stats import beta

    bounds, side = [], (1 + level) / 2
    for threshold in np.unique(np.concatenate([members, others])):
        fp, fn = int((others >= threshold).sum()), int((members < threshold).sum())
        fpr = 1.0 if fp == len(others) else beta.ppf(side, fp + 1, len(others) - fp)
        fnr = 1.0 if fn == len(members) else beta.ppf(side, fn + 1, len(members) - fn)
        ends = [math.log((1 - delta - a) / b) for a, b in ((fpr, fnr), (fnr, fpr)) if 1 - delta - a > 0]
        bounds.append(max([0.0, *ends]))
    return np.array(bounds)


def best_of_all(members: np.ndarray, others: np.ndarray, delta: float = 0.0, level: float = 0.95) -> float:
    """The largest bound over all thresholds, uncorrected. Not a bound: only to be compared with published numbers."""
    return float(all_bounds(members, others, delta, level)[1].max())


def bonferroni_bound(members: np.ndarray, others: np.ndarray, delta: float = 0.0, level: float = 0.95, looks: int = 32) -> float:
    """The largest bound over `looks` thresholds, each at level 1 − (1 − level)/looks.  [m], [n]

    The thresholds are quantiles of the pooled scores: they depend on values, not on who is a member. The union bound is exact
    for thresholds fixed before; quantiles of large pooled samples move too little to matter (tested by simulation).
    """
    thresholds = np.quantile(np.concatenate([members, others]), (np.arange(looks) + 0.5) / looks)
    fp, fn = threshold_counts(members, others, thresholds)
    return float(rates_bound(fp, len(others), fn, len(members), delta, 1 - (1 - level) / looks).max())


@dataclass(frozen=True)
class Rule:
    """'sign·score ≥ threshold means member', chosen on calibration scores."""

    sign: int
    threshold: float

    def counts(self, members: np.ndarray, others: np.ndarray) -> tuple[int, int]:
        """(false positives, false negatives)."""
        fp, fn = threshold_counts(self.sign * members, self.sign * others, np.array([self.threshold]))
        return int(fp[0]), int(fn[0])


def best_rule(members: np.ndarray, others: np.ndarray, delta: float = 0.0, level: float = 0.95) -> Rule:
    """The rule with the largest bound on these scores, in either direction; of equal ones the largest TPR − FPR."""
    best: tuple[float, float, Rule] | None = None
    for sign in (1, -1):
        thresholds, bounds = all_bounds(sign * members, sign * others, delta, level)
        fp, fn = threshold_counts(sign * members, sign * others, thresholds)
        advantage = 1 - fn / len(members) - fp / len(others)
        i = int(np.lexsort((advantage, bounds))[-1])
        if best is None or (bounds[i], advantage[i]) > best[:2]:
            best = float(bounds[i]), float(advantage[i]), Rule(sign, float(thresholds[i]))
    assert best is not None
    return best[2]


def split_bound(members: np.ndarray, others: np.ndarray, rng: np.random.Generator, delta: float = 0.0, level: float = 0.95
                ) -> float:
    """The bound on one random half of the scores of the rule chosen on the other half.  [m], [n]"""
    (a, b), (c, d) = (np.array_split(rng.permutation(x), 2) for x in (members, others))
    fp, fn = best_rule(a, c, delta, level).counts(b, d)
    return float(rates_bound(fp, len(d), fn, len(b), delta, level))


# -- Bayes --------------------------------------------------------------------------------------------------------------


@cache
def gauss_legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and weights on [−1, 1]; kept, because finding them takes ten times as long as using them."""
    return np.polynomial.legendre.leggauss(nodes)


@dataclass(frozen=True)
class Posterior:
    """P(ε ≤ e | counts): mass of Beta(½ + FN, ½ + TP) × Beta(½ + FP, ½ + TN) in the (e, δ) region (Jeffreys priors).

    By x = F⁻¹_FNR(u) it is one integral over quantiles, which singular densities (a count of 0) do not disturb:
        P = ∫₀¹ [B_FPR(hi(x(u))) − B_FPR(lo(x(u)))] du        by Gauss–Legendre with `nodes` nodes.
    An interval takes 2.4 ms at best and 8.3 ms in the median of 15 on a machine under load (256 nodes, one core).
    """

    tp: int
    fn: int
    fp: int
    tn: int
    delta: float = 0.0
    nodes: int = 256

    @cached_property
    def _grid(self) -> tuple[np.ndarray, np.ndarray]:
        """(FNR at the nodes, weights).  [nodes], [nodes]"""
        from scipy.special import betaincinv

        at, weights = gauss_legendre(self.nodes)
        return betaincinv(0.5 + self.fn, 0.5 + self.tp, (at + 1) / 2), weights / 2

    def cdf(self, eps: float) -> float:
        """P(ε ≤ eps)."""
        from scipy.special import betainc

        (x, weights), d, up, down = self._grid, self.delta, math.exp(eps), math.exp(-eps)
        low = np.clip(np.maximum(1 - d - x * up, (1 - d - x) * down), 0, 1)
        high = np.clip(np.minimum(1 + (d - x) * down, d + (1 - x) * up), 0, 1)
        a, b = 0.5 + self.fp, 0.5 + self.tn
        return float(weights @ np.maximum(betainc(a, b, high) - betainc(a, b, low), 0))

    def quantile(self, p: float) -> float:
        """The ε below which the posterior has mass p; 0 when it has more at 0, ∞ when less below `LARGEST`."""
        from scipy.optimize import brentq

        if self.cdf(0.0) >= p:
            return 0.0
        high = 1.0
        while self.cdf(high) < p:
            high *= 2
            if high > LARGEST:
                return math.inf
        return float(brentq(lambda eps: self.cdf(eps) - p, high / 2 if high > 1 else 0.0, high, xtol=1e-5))

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Equal-tailed credible interval; its lower end is a one-sided bound at (1 + level)/2."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def draws(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """ε of posterior draws: Monte Carlo, what the integral shortens.  -> [count]"""
        fnr, fpr = rng.beta(0.5 + self.fn, 0.5 + self.tp, count), rng.beta(0.5 + self.fp, 0.5 + self.tn, count)
        wrong_way = fnr + fpr > 1
        return implied(np.where(wrong_way, 1 - fpr, fpr), np.where(wrong_way, 1 - fnr, fnr), self.delta)
