"""How small is the smallest p-value of one more model, judged by those of a few models like it? Max-T with a fitted tail.

A model undergoes m tests at once; its smallest p-value (largest studentised deviation) decides. With −log(1 − min p) = e:

    e ~ Exp(m)                  m independent exact tests; m in effect where they depend on each other
    e ~ Weibull(shape < 1)      where tails are heavier than Student's, or the same few models are odd in every test

so log e has a location (how many tests) and a spread (how heavy the tails). K references, each tested against the other K − 1,
give K draws of it, and one more model is held against the predictive law of the next draw:

    w = (log e − c)/s,   c = mean log e_k,   s² = (ν·π²/6 + Σ (log e_k − c)²)/(ν + K − 1),   π²/6 = Var log Exp

P(w ≤ x) is taken over e_k and e from Exp(1), where w is a pivot for ν = 0; ν = 1 draw of knowing that exact tests have spread
π/√6 steadies s for few references. A plain quantile of K draws could not go below 1/(K + 1). Westfall & Young 1993 (max-T);
Lawless 1978 (prediction from a fitted Weibull law).
Coverage:   see tests/maths/test_extremes.py, which prints family-wise false alarms and power beside Holm's correction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

KNOWN = 1.0          # ν
FEWEST = 3           # draws below which no spread is fitted
SMALLEST = 1e-6      # p-values of references below this count as this: by Student's law one odd draw would hide any other
LARGEST = 0.99       # and above this as this: a one-sided test has p = 1 on its other side
DRAWS = 4000         # simulated references behind the predictive law
GRID = np.linspace(-40.0, 6.0, 461)   # of w


def exceedance(p: float | np.ndarray) -> np.ndarray:
    """−log(1 − p) of p-values within [0, `LARGEST`]: exponential with mean 1 for an exact test."""
    return np.asarray(-np.log1p(-np.clip(p, 0.0, LARGEST)))


def effective_tests(p: Sequence[float]) -> float:
    """The number of independent exact tests whose smallest p-values would be as these, at least 1.  [K] smallest p"""
    return max(1.0, 1.0 / float(np.mean(exceedance(np.maximum(p, SMALLEST)))))


@dataclass(frozen=True)
class Smallest:
    """The law of the smallest exceedance of one more model.

    seen  [K ≥ 3] those of models that it should be like, each tested against the others
    """

    seen: tuple[float, ...]

    @property
    def location(self) -> float:
        """c, the mean of log e_k."""
        return float(np.mean(self._logs))

    @property
    def spread(self) -> float:
        """s."""
        return float(_spread(self._logs[None])[0])

    @property
    def _logs(self) -> np.ndarray:
        return np.log(np.maximum(self.seen, SMALLEST))

    def chance(self, e: float) -> float:
        """Probability that one more model has an exceedance of at most `e`."""
        if not e > 0:
            return 0.0
        at, log_chance = (math.log(e) - self.location) / self.spread, _log_chance(len(self.seen))
        return float(np.exp(np.interp(at, GRID, log_chance)))

    def below(self, chance: float) -> float:
        """The exceedance that one more model undercuts with this probability."""
        return math.exp(self.location + self.spread * float(np.interp(math.log(chance), _log_chance(len(self.seen)), GRID)))


def _spread(logs: np.ndarray) -> np.ndarray:
    """s of each row.  [N, K] -> [N]"""
    squares = ((logs - logs.mean(1, keepdims=True)) ** 2).sum(1)
    found: np.ndarray = np.sqrt((KNOWN * math.pi**2 / 6 + squares) / (KNOWN + logs.shape[1] - 1))
    return found


@lru_cache(maxsize=64)
def _log_chance(count: int) -> np.ndarray:
    """log P(w ≤ x) on `GRID`: the mean over simulated references of 1 − exp(−exp(c + s·x))."""
    logs = np.log(np.random.default_rng(0).exponential(size=(DRAWS, count)))
    centre, spread = logs.mean(1), _spread(logs)
    chance = [float(np.mean(-np.expm1(-np.exp(centre + spread * x)))) for x in GRID]
    return np.log(np.maximum(chance, 1e-300))
