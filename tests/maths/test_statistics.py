"""Intervals, attacks and predictive laws: golden numbers, oracles, properties, coverage in simulated audits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from lethe.maths import statistics as s

AUDITS = 400
ENOUGH = 0.93 * AUDITS   # nominal 95 %: 380 of 400 expected, standard deviation 4.4

scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)


def pairwise(x: list[float], y: list[float]) -> float:
    return float(np.mean([(a > b) + 0.5 * (a == b) for a in x for b in y]))


@given(scores, scores)
def test_auc_counts_pairs_and_its_negation_is_its_complement(x, y):
    assert s.auc(x, y) == pytest.approx(pairwise(x, y))
    assert s.auc(-np.array(x), -np.array(y)) == pytest.approx(1 - s.auc(x, y))
    assert s.auc(np.exp(x), np.exp(y)) == pytest.approx(s.auc(x, y))


@given(scores, scores)
def test_area_under_the_roc_is_the_auc(x, y):
    curve = s.roc(x, y)
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(pairwise(x, y))
    assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)


def test_auc_interval_is_delongs_on_the_logit_scale():
    # placements of members 1, 3 among 0, 2: ½, 1 -> AUC ¾, variances of both sides ⅛ -> se = √(⅛/2 + ⅛/2) = 0.35355
    area, low, high = s.auc_interval([1, 3], [0, 2])
    half = 1.959964 * math.sqrt(1 / 8) / (0.75 * 0.25)
    assert area == 0.75
    assert math.log(high / (1 - high)) == pytest.approx(math.log(3) + half, rel=1e-6)
    assert math.log(low / (1 - low)) == pytest.approx(math.log(3) - half, rel=1e-6)


def test_auc_interval_of_a_perfect_attack_is_not_a_point():
    area, low, high = s.auc_interval(np.arange(30) + 100, np.arange(50))
    assert area == 1 and 0.8 < low < 0.9 and high == pytest.approx(1)


def test_tpr_at_fpr_takes_the_lowest_threshold_that_is_allowed():
    members, others = [0.5, 8.5, 8.5, 9.5, 20], list(range(10))   # 10 % of ten others: one false alarm, threshold 8
    found = s.tpr_at_fpr(members, others, 0.1)
    assert (found.tpr, found.hits, found.false_alarms, found.threshold) == (0.8, 4, 1, 8)
    assert s.tpr_at_fpr(members, others, 0.19).tpr == 0.8      # never interpolated
    assert s.tpr_at_fpr(members, others, 0.05) is None         # ten others cannot resolve 5 %


@given(scores, st.lists(st.integers(-5, 5).map(float), min_size=4, max_size=15), st.sampled_from([0.25, 0.4, 1.0]))
def test_tpr_at_fpr_is_the_best_of_all_allowed_thresholds(x, y, alpha):
    cuts = [-math.inf, *x, *y]
    allowed = [c for c in cuts if np.mean(np.array(y) > c) <= alpha]
    best = max(np.mean(np.array(x) > c) for c in allowed)
    if alpha == 1.0:   # every threshold is allowed; hits above the smallest other are counted
        best = np.mean(np.array(x) > min(y))
    assert s.tpr_at_fpr(x, y, alpha, resamples=10).tpr == pytest.approx(best)


def test_fast_bootstrap_equals_the_drawn_one():
    rng = np.random.default_rng(3)
    members, others = rng.normal(1, 1, 80), rng.normal(0, 1, 150)
    drawn = np.quantile(s.reference_bootstrap(members, others, 0.1, 20000, 0), [0.025, 0.5, 0.975])
    fast = s.tpr_at_fpr(members, others, 0.1, resamples=20000)
    assert fast.low == pytest.approx(drawn[0], abs=0.02) and fast.high == pytest.approx(drawn[2], abs=0.02)


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_intervals_of_attacks_cover(shift):
    area, rate = norm.cdf(shift / math.sqrt(2)), norm.sf(norm.isf(0.05) - shift)
    rng = np.random.default_rng(11)
    covered = np.zeros(2)
    for seed in range(AUDITS):
        members, others = rng.normal(shift, 1, 60), rng.normal(0, 1, 200)
        _, low, high = s.auc_interval(members, others)
        tpr = s.tpr_at_fpr(members, others, 0.05, 500, seed)
        covered += [low <= area <= high, tpr.low <= rate <= tpr.high]
    assert (covered >= ENOUGH).all(), covered


def test_intervals_of_means_proportions_and_predictions_cover():
    rng = np.random.default_rng(12)
    covered = np.zeros(4)
    for _ in range(AUDITS):
        low, high = s.mean_interval(rng.exponential(1, 200))
        hits, draws = int(rng.binomial(200, 0.05)), rng.normal(0, 1, 9)
        a, b, p = s.wilson(hits, 200), s.clopper_pearson(hits, 200), s.prediction_interval(draws[:8])
        covered += [low <= 1 <= high, a[0] <= 0.05 <= a[1], b[0] <= 0.05 <= b[1], p[2] <= draws[8] <= p[3]]
    assert (covered >= ENOUGH).all(), covered


def test_clopper_pearson_golden():
    assert s.clopper_pearson(0, 10) == (0, pytest.approx(1 - 0.025**0.1))     # (1 − p)^10 = 0.025
    assert s.clopper_pearson(10, 10) == (pytest.approx(0.025**0.1), 1)


def test_holm_golden():
    assert s.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])    # 3·0.01; 2·0.03; max(0.06, 0.04)


def test_prediction_p_is_the_intervals_inverse():
    values = [0.1, 0.4, 0.35, 0.8, 0.2]
    _, _, low, high = s.prediction_interval(values)
    assert s.prediction_p(low, values) == pytest.approx(0.05) and s.prediction_p(high, values) == pytest.approx(0.05)


def test_paired_p_golden_and_edges():
    assert s.paired_p([1, 0, 0, 0]) == pytest.approx(2 * t.sf(1, 3))     # mean ¼, sd ½, se ¼
    assert s.paired_p([0, 0, 0]) == 1 and s.paired_p([1, 1, 1]) == 0 and s.paired_p([3]) == 1


def test_student_predictive_goes_from_each_columns_own_variance_to_the_pooled_one():
    draws = np.random.default_rng(0).normal(0, [1, 1, 4, 4], (6, 4))
    own = draws.std(0, ddof=1) * math.sqrt(1 + 1 / 6)
    mean, scale, freedom = s.student_predictive(draws, prior=1 + 1e-9)       # b₀ = 0, a = 1 + 5/2
    assert mean == pytest.approx(draws.mean(0)) and freedom == pytest.approx(7)
    assert scale == pytest.approx(own * math.sqrt(2.5 / 3.5))
    pooled = math.sqrt(draws.var(0, ddof=1).mean() * (1 + 1 / 6))
    assert s.student_predictive(draws, prior=1e9)[1] == pytest.approx(np.full(4, pooled), rel=1e-6)


@settings(max_examples=30)
@given(st.integers(2, 12), st.floats(0.1, 10))
def test_student_predictive_moves_with_its_draws(k, factor):
    draws = np.random.default_rng(k).normal(0, 1, (k, 5))
    mean, scale, _ = s.student_predictive(draws)
    moved = s.student_predictive(3 + factor * draws)
    assert moved[0] == pytest.approx(3 + factor * mean) and moved[1] == pytest.approx(factor * scale)
