"""RMIA: sorted form, matrix form and closed forms agree; masks; the tuned slope; controls."""

from __future__ import annotations

import math

import membership
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.audits.membership.rmia import (
    log_offline,
    reference_rmia_scores,
    reference_tune_offline_a,
    rmia_scores,
    tune_offline_a,
)
from lethe.maths.membership import log_mean, log_online


def test_golden():
    """r_z = 1, 2, 4: an x with ratio 4 is twice as likely as two of them, one with ratio 1 as none."""
    z = np.log([1.0, 2.0, 4.0])
    assert rmia_scores(np.log([4.0, 1.0]), z, gamma=1.999) == pytest.approx([2 / 3, 0.0])
    assert rmia_scores(np.log([4.0, 1.0]), z, gamma=1.0) == pytest.approx([1.0, 1 / 3])


def test_a_candidate_without_ratio_has_no_score():
    assert np.isnan(rmia_scores(np.array([np.nan, 0.0]), np.zeros(3))).tolist() == [True, False]


@given(st.integers(0, 10**6), st.sampled_from([0.5, 1.0, 2.0]))
def test_sorted_form_equals_the_matrix(seed, gamma):
    rng = np.random.default_rng(seed)
    x, z = rng.normal(0, 2, rng.integers(1, 40)).round(1), rng.normal(0, 2, rng.integers(1, 40)).round(1)   # with ties
    assert (rmia_scores(x, z, gamma) == reference_rmia_scores(x, z, gamma)).all()


def test_means_of_probabilities_over_those_that_count():
    p = np.array([[0.2, 0.5], [0.4, 0.1], [0.9, 0.3]])
    mask = np.array([[True, False], [True, False], [False, False]])
    found = log_mean(np.log(p), mask)
    assert found[0] == pytest.approx(math.log(0.3)) and np.isnan(found[1])
    assert np.isnan(log_online(np.log(p), np.array([[True, True]] * 3))).all()      # nobody was left out
    inside = np.array([[True, True], [True, False], [False, False]])
    assert np.exp(log_online(np.log(p), inside)) == pytest.approx([(0.3 + 0.9) / 2, (0.5 + 0.2) / 2])
    assert np.exp(log_offline(np.log(np.array([0.4])), 0.5)) == pytest.approx([(1.5 * 0.4 + 0.5) / 2])
    assert np.isfinite(log_offline(np.array([-800.0]), 1.0)).all()       # p underflows, its logarithm does not


def shadows(n: int, m: int, models: int, seed: int = 0):
    """log p of n candidates and m others under models; being trained on x doubles the odds twice."""
    rng = np.random.default_rng(seed)
    inside = rng.random((models, n)).argsort(0).argsort(0) < models // 2

    def log_p(difficulty, shift):
        return -np.logaddexp(0, -(difficulty + shift + rng.normal(0, 1, shift.shape)))

    return log_p(rng.normal(0, 2, n), 1.4 * inside), inside, log_p(rng.normal(0, 2, m), np.zeros((models, m)))


@pytest.mark.parametrize("targets", [1, 2])
def test_tuning_equals_the_loop(targets):
    for seed in range(5):
        given_ = shadows(40, 30, 4, seed)
        assert tune_offline_a(*given_, targets=targets) == reference_tune_offline_a(*given_, targets=targets)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "metric"), [("rmia", "rmia_auc"), ("rmia", "rmia_offline_auc"), ("base", "base_auc"),
                                              ("base", "base_offline_auc")])
def test_controls_on_memorised_labels(name, metric):
    nothing, retrained = membership.controls(name, metric, membership.shadows())
    assert nothing.low > 0.5 and len(nothing.per_sample) == 40
    assert nothing.value > max(v.value for v in retrained)
