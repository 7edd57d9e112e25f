"""LiRA: the per-example attack sees what one threshold cannot."""

from __future__ import annotations

import math

import membership
import numpy as np
import pytest
import tiny
from panels import said, values
from scipy.stats import norm, t

from lethe.core.catalogue import load
from lethe.data.select import Where
from lethe.errors import OutOfRange
from lethe.maths.membership import best_threshold, log_ratio, reference_best_threshold, surprise
from lethe.maths.statistics import auc, student_predictive

lira = load("audits", "lira")


def world(references: int, memory: float, n: int = 400, seed: int = 0):
    """Signals of a model and its references: difficulty per example N(0, 3²), seeds N(0, σ_x²), members + memory."""
    rng = np.random.default_rng(seed)
    difficulty, own = rng.normal(0, 3, 2 * n), rng.gamma(4, 0.25, 2 * n)
    pool = difficulty + own * rng.normal(0, 1, (references, 2 * n))
    model = difficulty + own * rng.normal(0, 1, 2 * n)
    model[:n] += memory
    return model, pool, n


def attacked(variance: str, references: int, memory: float, seed: int = 0) -> float:
    model, pool, n = world(references, memory, seed=seed)
    ratio = surprise(model, pool, variance)
    return auc(ratio[:n], ratio[n:])


def test_surprise_golden():
    pool = np.array([[0.0, 2.0], [2.0, 2.0], [1.0, 5.0]])
    assert surprise(np.array([1.0, 3.0]), pool, "point") == pytest.approx([math.log(2), math.log(2)])    # at the mean
    spread = math.sqrt((1 + 3) / 2)
    assert surprise(np.array([2.0, 3.0]), pool, "fixed")[0] == pytest.approx(-norm.logsf(1 / spread))
    m, scale, freedom = student_predictive(pool)
    assert surprise(np.array([2.0, 3.0]), pool)[0] == pytest.approx(-t.logsf((2 - m[0]) / scale[0], freedom))


def test_per_example_thresholds_see_what_one_threshold_cannot():
    """With difficulty 3 and seeds about 1, one threshold has AUC Φ(1.5/√20.5) = 0.63; per-example thresholds see more."""
    model, _, n = world(8, 1.5)
    alone = auc(model[:n], model[n:])
    assert alone < 0.67 and attacked("predictive", 8, 1.5) > 0.80


def test_small_pool_predictive_is_not_worse_than_its_limits():
    """4 references, 20 worlds: variance per example is noise, one variance ignores the examples' own."""
    mean = {v: np.mean([attacked(v, 4, 1.5, seed) for seed in range(20)]) for v in ("predictive", "fixed", "point")}
    assert mean["predictive"] > mean["fixed"] and mean["predictive"] > mean["point"] + 0.01, mean


def test_a_model_without_memory_has_auc_one_half():
    assert np.mean([attacked("predictive", 8, 0.0, seed) for seed in range(20)]) == pytest.approx(0.5, abs=0.01)


def test_signals_of_any_size_stay_finite():
    assert np.isfinite(surprise(np.array([1e3, -1e3]), np.zeros((4, 2)))).all()


def test_audit_reports_auc_of_the_forget_set_against_the_unseen():
    task = tiny.classification(Where(fraction=0.25))
    rng, n, h = np.random.default_rng(0), len(task.forget), len(task.holdout)
    hard, easy = rng.normal(0, 5, n), rng.normal(0, 5, h)

    def model(shift: float):
        return said(task, forget={"signal": hard + shift + rng.normal(0, 1, n)},
                    holdout={"signal": easy + rng.normal(0, 1, h)})

    pool = [model(0.0) for _ in range(8)]
    found = values(lira, model(3.0), pool)
    assert found["lira_auc"].value > 0.9 and found["lira_auc"].n == n and found["lira_tpr_at_5"].value > 0.5
    assert found["lira_auc"].low < found["lira_auc"].value < found["lira_auc"].high
    assert abs(values(lira, model(0.0), pool)["lira_auc"].value - 0.5) < 0.12


def test_unknown_variance_is_refused():
    with pytest.raises(OutOfRange, match="predictive"):
        lira.config(variance="predictiv")


def test_online_equals_the_formula_of_the_paper_in_double_precision():
    """Gaussian log densities with population spreads (ddof 0), median centres, and one residual spread per side."""
    rng = np.random.default_rng(3)
    draws, signal = rng.normal(size=(16, 200)), rng.normal(size=200)
    inside = rng.random((16, 200)).argsort(0).argsort(0) < 8
    fixed = {True: [], False: []}
    by_hand = {"point": np.zeros(200), "fixed": np.zeros(200)}
    for j in range(200):
        for world in (True, False):
            own = draws[inside[:, j] == world, j]
            fixed[world].append(own - np.median(own))
    for j in range(200):
        for world, sign in ((True, 1), (False, -1)):
            own = draws[inside[:, j] == world, j]
            by_hand["point"][j] += sign * norm.logpdf(signal[j], np.median(own), own.std())
            spread = np.sqrt(np.mean(np.concatenate(fixed[world]) ** 2))
            by_hand["fixed"][j] += sign * norm.logpdf(signal[j], np.median(own), spread)
    for variance, expected in by_hand.items():
        assert log_ratio(signal, draws, inside, variance, "median", ddof=0) == pytest.approx(expected, abs=1e-10)


def test_best_threshold_is_exact():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(0.5, 1, 30).round(1), rng.normal(0, 1, 50).round(1)
        assert best_threshold(x, y) == pytest.approx(reference_best_threshold(x, y))
    assert best_threshold(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.5])) == pytest.approx((1.0, 1 / 2))   # 3/3 − 1/2


@pytest.mark.slow
def test_controls_on_memorised_labels():
    for metric, pool in (("lira_auc", None), ("lira_online_auc", membership.shadows())):
        nothing, retrained = membership.controls("lira", metric, pool)
        assert nothing.low > 0.5 and nothing.value > max(v.value for v in retrained) and len(nothing.per_sample) == 40
        assert np.mean([v.value for v in retrained]) == pytest.approx(0.5, abs=0.12)
    assert "lira_online_auc" not in membership.found("lira", membership.original())
