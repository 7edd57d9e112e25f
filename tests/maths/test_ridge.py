"""Ridge: the normal equations by hand, generalised cross-validation against its definition, folds without bias."""

from __future__ import annotations

import numpy as np
import pytest

from lethe.maths.ridge import PENALTIES, cross_fitted, one_hot, ridge, ridge_gcv
from lethe.maths.statistics import auc


def test_ridge_golden():
    # x = −1, 1; y = 0, 4: centred XᵀX = 2, λ = 0.5·2 = 1, w = (0·−1 … 4·1 − 2·…) = 4/3, b = 2
    w, b = ridge(np.array([[-1.0], [1.0]]), np.array([[0.0], [4.0]]), 0.5)
    assert w.item() == pytest.approx(4 / 3) and b.item() == pytest.approx(2)


def test_gcv_is_its_definition_and_the_same_ridge():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 8)) + 3, rng.normal(size=(30, 2))

    def defined(penalty):
        w, b = ridge(x, y, penalty)
        centred = x - x.mean(0)
        unit = penalty * np.trace(centred.T @ centred) / 8
        hat = centred @ np.linalg.solve(centred.T @ centred + unit * np.eye(8), centred.T)
        return 30 * ((y - x @ w - b) ** 2).sum() / (30 - 1 - np.trace(hat)) ** 2

    w, b, chosen = ridge_gcv(x, y)
    assert chosen == min(PENALTIES, key=defined)
    assert np.allclose(w, ridge(x, y, chosen)[0]) and np.allclose(b, ridge(x, y, chosen)[1])


def test_gcv_shrinks_noise_and_keeps_signal_also_with_more_columns_than_rows():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 100))
    assert ridge_gcv(x, rng.normal(size=(40, 1)))[2] > ridge_gcv(x[:, :5], x[:, :1] * 3.0)[2]


def test_cross_fitting_has_no_bias_where_there_is_nothing_to_find():
    """Unstratified folds give 0.45 ± 0.01 here."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(90, 4)), (np.arange(90) < 20).astype(float)
        said = cross_fitted(x, y, 5, rng)
        found.append(auc(said[y == 1], said[y == 0]))
    assert np.mean(found) == pytest.approx(0.5, abs=0.03)


def test_one_hot():
    assert one_hot(np.array([3, 7]), np.array([3, 5, 7])).tolist() == [[1, 0, 0], [0, 0, 1]]
