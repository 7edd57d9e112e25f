"""Where one more retrained model would lie: the band that decides on a value, and the p-value that says the same.

    band(α) = seeds(α) ∪ sample(α),   p(x) = max(p_seeds, p_sample) ≤ α exactly where x lies outside band(α)

Two things make one retrained model differ from others: its seeds (Student's prediction for one more model, on the scale of the
metric: `lethe.judge.scale`) and the finite sample that it is measured on. Both are taken from the retrained models alone, so the
band is one for every model beside it, and a sign never disagrees with the picture. Utility and distances have one side only:
more utility, or less distance, than retraining has is no fault.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lethe.core.evidence import Value
from lethe.core.registry import Metric
from lethe.judge.scale import PLAIN, Scale, scale_of
from lethe.maths.statistics import prediction_interval, prediction_p

ENOUGH = 3   # references below which no prediction interval is reported
Z = 1.959964   # normal quantile of a 95 % interval
Fine = Literal["", "+", "−"]


@dataclass(frozen=True)
class Law:
    """The law of one more retrained model.

    error    standard error of (a model − the mean of the references) by the finite sample; 0: none is known
    freedom  degrees of freedom of that error; ∞: normal          scale  that seeds are judged on
    fine     the side of the mean that is no fault: + above, − below, '' neither
    bounds   smallest and largest possible value
    """

    values: tuple[float, ...]
    error: float = 0.0
    freedom: float = math.inf
    scale: Scale = PLAIN
    fine: Fine = ""
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def mean(self) -> float:
        """The mean of the references."""
        return float(np.mean(self.values))

    def p(self, value: float) -> float:
        """Two-sided p-value; 1 on the side that is no fault, 0 for what is not finite."""
        gap = value - self.mean
        if not math.isfinite(value):
            return 0.0
        if (self.fine == "+" and gap >= 0) or (self.fine == "−" and gap <= 0):
            return 1.0
        return max(prediction_p(self.scale.onto(value), [self.scale.onto(x) for x in self.values]), self._sample_p(gap))

    def band(self, level: float) -> tuple[float, float]:
        """The values whose p exceeds `level`, within what is possible."""
        low, high = (self.scale.back(x)
                     for x in prediction_interval([self.scale.onto(x) for x in self.values], 1 - level)[2:])
        half = self._quantile(level) * self.error if self.error else 0.0
        floor, ceiling = min(self.bounds[0], *self.values), max(self.bounds[1], *self.values)
        return (floor if self.fine == "−" else max(floor, min(low, self.mean - half)),
                ceiling if self.fine == "+" else min(ceiling, max(high, self.mean + half)))

    def _sample_p(self, gap: float) -> float:
        from scipy.stats import norm, t

        if not self.error:
            return 1.0 if gap == 0 else 0.0
        tail = norm.sf(abs(gap) / self.error) if math.isinf(self.freedom) else t.sf(abs(gap) / self.error, self.freedom)
        return float(2 * tail)

    def _quantile(self, level: float) -> float:
        from scipy.stats import norm, t

        return float(norm.isf(level / 2) if math.isinf(self.freedom) else t.isf(level / 2, self.freedom))


@dataclass(frozen=True)
class Null:
    """The law of an attack on a model to which the data are unseen: normal around the null value, judged above it only.

    scale = √(error² + sd²): the value's sampling error, and the sd over the original's neighbours, an approximate floor of
    what seeds do
    """

    null: float
    error: float
    neighbours: tuple[float, ...] = ()
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def mean(self) -> float:
        """The null value."""
        return self.null

    @property
    def sd(self) -> float:
        """Of the neighbours' values; 0 where there are none."""
        return float(np.std(self.neighbours, ddof=1)) if self.neighbours else 0.0

    @property
    def scale(self) -> float:
        """Standard deviation of the law."""
        return math.hypot(self.error, self.sd)

    def p(self, value: float) -> float:
        """One-sided p-value; 1 below the null, 0 for what is not finite."""
        if not math.isfinite(value):
            return 0.0
        return math.erfc((value - self.null) / self.scale / math.sqrt(2)) / 2 if value > self.null else 1.0

    def band(self, level: float) -> tuple[float, float]:
        """The values whose p exceeds `level`, within what is possible."""
        from scipy.stats import norm

        return self.bounds[0], min(self.bounds[1], self.null + float(norm.isf(level)) * self.scale)


def law_of(others: Sequence[Value], metric: Metric) -> Law | None:
    """The law from the values of at least three references; None where fewer are finite."""
    known = [v for v in others if math.isfinite(v.value)]
    if len(known) < ENOUGH:
        return None
    numbers = tuple(v.value for v in known)
    below = metric.better == "lower" or metric.distance
    fine: Fine = "+" if metric.better == "higher" else "−" if below else ""
    error, freedom = _sample(known, metric.range) if len(known) == len(others) else _intervals(known)
    sizes = {v.n for v in known}
    scale = scale_of(metric.range, numbers, (known[0].n or 0) if len(sizes) == 1 else 0)
    return Law(numbers, error, freedom, scale, fine, metric.range)


def _sample(references: Sequence[Value], limits: tuple[float, float]) -> tuple[float, float]:
    """(standard error, degrees of freedom): by pairing where all values are means over the same examples.

    Each reference − the mean of the others, example by example: its variance over the examples, averaged over the references.
    Of answers that are right or wrong, and wherever most references agree in every example, never less than the upper arm of
    Wilson's interval at 0 of n, times the width of the range: references that agree determine nothing about the next example.
    """
    rows = [means(v) for v in references]
    sizes = {v.n for v in references}
    if len(sizes) != 1 or any(row is None or len(row) != references[0].n for row in rows):
        return _intervals(references)
    table, count = np.stack([row for row in rows if row is not None]), len(rows)
    n = table.shape[1]
    if n < 2:
        return _intervals(references)
    apart = (table - table.mean(0)) * count / (count - 1)
    scale = (1 + 1 / count) / (1 + 1 / (count - 1))
    error = math.sqrt(float(apart.var(1, ddof=1).mean()) / n * scale)
    width = limits[1] - limits[0]
    if np.isin(table, (0.0, 1.0)).all():
        error = max(error, Z / (n + Z * Z))
    elif math.isfinite(width) and 2 * len(np.unique(table, axis=0)) <= count:
        error = max(error, width * Z / (n + Z * Z))
    return (error, n - 1) if error > 0 else _intervals(references)


def _intervals(references: Sequence[Value]) -> tuple[float, float]:
    """The same from the references' own 95 % intervals, of each the longer arm; 0 where they have none."""
    arms = [max(v.high - v.value, v.value - v.low) / Z for v in references
            if v.low is not None and v.high is not None and v.high > v.low]
    return (math.sqrt(float(np.mean(np.square(arms))) * (1 + 1 / len(references))) if arms else 0.0), math.inf


def means(value: Value) -> np.ndarray | None:
    """The per-example values when the value is their mean."""
    if value.per_sample is None or not len(value.per_sample):
        return None
    row = np.asarray(value.per_sample, dtype=float)
    return row if math.isclose(float(row.mean()), value.value, rel_tol=1e-6, abs_tol=1e-9) else None
