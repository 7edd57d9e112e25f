"""The law of the most extreme of many tests: false alarms and power over simulated yardsticks, beside Holm's correction."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student

from lethe.judge.scale import Scale
from lethe.maths.extremes import Smallest, effective_tests, exceedance

LEVEL, RESERVE = 0.05, 1.6
HALF = math.sqrt(0.5)


def draws(kind: str, size: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """m metrics of K references and one more model, in many trials.  -> [trials, K + 1, m]"""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=size)
    common = rng.normal(size=(*size[:2], 1))
    if kind == "correlated":
        return 2 * common + x                                       # correlation 0.8
    if kind == "positive":
        return np.vectorize(Scale(0.0).onto)(np.exp(x))             # as a metric of range 0 … ∞ is judged
    if kind == "share":
        return np.vectorize(Scale(0.0, 1.0, 200).onto)(rng.binomial(200, 1 / (1 + np.exp(-2 - x / 2))) / 200)
    if kind == "heavy":
        return rng.standard_t(5, size)
    if kind == "odd models":
        return x * np.where(rng.random((*size[:2], 1)) < 0.1, 3.0, 1.0)
    return HALF * (x + common) / np.sqrt(rng.chisquare(3, (*size[:2], 1)) / 3) if kind == "heavy, correlated" else x


def smallest(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest two-sided p of the last model against the others, and of each of these against the rest.  -> [N], [N, K]"""
    found = []
    for k in range(x.shape[1]):
        rest = np.delete(x[:, :-1], k, 1) if k < x.shape[1] - 1 else x[:, :-1]
        n, sd = rest.shape[1], np.maximum(rest.std(1, ddof=1), 1e-9)
        found.append(2 * student.sf(np.abs((x[:, k] - rest.mean(1)) / sd / math.sqrt(1 + 1 / n)).max(1), n - 1))
    return found[-1], np.stack(found[:-1], 1)


def alarms(x: np.ndarray) -> tuple[float, float]:
    """(share of trials in which the last model is called outside, the same by Holm within the tier, times two tiers)."""
    p, seen = smallest(x)
    called = [exceedance(one) * (m := effective_tests(row)) < Smallest(tuple(m * exceedance(row))).below(LEVEL / RESERVE)
              for one, row in zip(p, seen, strict=True)]
    return float(np.mean(called)), float(np.mean(p * x.shape[2] * 2 <= LEVEL))


KINDS = ("normal", "correlated", "positive", "share", "heavy", "odd models", "heavy, correlated")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_like_the_references_is_outside_in_at_most_one_of_twenty(kind: str) -> None:
    rate, holm = alarms(draws(kind, (600, 9, 10)))
    print(f"{kind}: {rate:.3f}, Holm {holm:.3f}")
    assert rate <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 600)


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 8, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_false_alarms_and_power_of_every_number_of_references_and_tests(kind: str, count: int) -> None:
    for m in (3, 10, 20):
        x = draws(kind, (3000, count + 1, m), seed=m)
        rate, holm = alarms(x)
        x[:, -1, : 1 + m // 3] += 6 * x.std()
        power, power_holm = alarms(x)
        print(f"{kind}, {count} references, {m} tests: false alarms {rate:.3f} (Holm {holm:.3f}), "
              f"power {power:.2f} ({power_holm:.2f})")
        assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 3000)


@pytest.mark.parametrize("count", [8, 16])
def test_the_power_is_that_of_holm_or_more_where_tests_depend_on_each_other(count: int) -> None:
    x = draws("correlated", (600, count + 1, 20))
    x[:, -1, :6] += 5 * math.sqrt(5)
    power, holm = alarms(x)
    assert power >= holm and power >= 0.75


def test_many_references_with_exact_tests_show_the_law_of_an_exact_test() -> None:
    seen = np.random.default_rng(0).exponential(size=4000)
    law = Smallest(tuple(seen))
    for e in (0.01, 0.05, 0.5):
        assert law.chance(e) == pytest.approx(1 - math.exp(-e), rel=0.1)
        assert law.chance(law.below(e)) == pytest.approx(e, rel=1e-6)
    assert law.chance(0.0) == 0.0


def test_the_number_of_effective_tests() -> None:
    """Smallest of m exact p-values: 1 − (1 − u)^(1/m); e = −log(1 − p) has mean 1/m."""
    u = (np.arange(1000) + 0.5) / 1000
    for m in (1, 5, 40):
        assert effective_tests(-np.expm1(np.log1p(-u) / m)) == pytest.approx(m, rel=0.06)
    assert effective_tests([1.0, 1.0, 0.9]) == 1.0


def test_one_odd_reference_raises_the_bar_and_does_not_hide_everything() -> None:
    plain, odd = [0.1, 0.3, 0.2, 0.05, 0.4, 0.15, 0.25, 0.1], [0.1, 0.3, 0.2, 0.05, 0.4, 0.15, 0.25, 0.0]
    laws = [Smallest(tuple(np.maximum(exceedance(np.array(p)), 1e-6))) for p in (plain, odd)]
    assert 1e-9 < laws[1].below(0.04) < laws[0].below(0.04) / 10
