"""Quantile regression: it knows a world whose difficulty the view explains; ridge in closed form; controls."""

from __future__ import annotations

import membership
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from lethe.audits.membership.quantile import excess
from lethe.maths.membership import PENALTIES, ridge
from lethe.maths.statistics import auc


def test_ridge_equals_sklearn_and_its_leave_one_out_the_loop():
    rng = np.random.default_rng(0)
    x, new = rng.normal(3, 2, (25, 4)), rng.normal(size=(5, 4))
    y = x @ np.array([1.0, -2, 0, 0.5]) + rng.normal(size=25)
    found, left_out = ridge(x, y, new)
    scaled, other = (x - x.mean(0)) / x.std(0), (new - x.mean(0)) / x.std(0)
    errors, fits = {}, {}
    for penalty in PENALTIES:
        # the columns keep the scale of all examples, as in `ridge`; the centre is the one of those that are left
        loop = np.array([Ridge(alpha=penalty * 25).fit(np.delete(scaled, i, 0), np.delete(y, i)).predict(scaled[[i]])[0]
                         for i in range(25)])
        errors[penalty], fits[penalty] = ((y - loop) ** 2).mean(), loop
    best = min(errors, key=errors.get)
    assert found == pytest.approx(Ridge(alpha=best * 25).fit(scaled, y).predict(other))
    assert left_out == pytest.approx(fits[best])


def test_columns_without_spread_are_harmless():
    assert np.isfinite(ridge(np.ones((6, 2)), np.arange(6.0), np.ones((2, 2)))[0]).all()


@pytest.mark.parametrize("head", ["gaussian", "pinball"])
def test_difficulty_and_spread_are_taken_out(head):
    """φ = 3·v₁ + noise of scale e^{v₂/2}; members are 2 spreads higher. Raw AUC 0.66; knowing the law Φ(√2) = 0.92."""
    rng = np.random.default_rng(1)

    def world(n, shift):
        v = rng.normal(size=(n, 2))
        return 3 * v[:, 0] + np.exp(v[:, 1] / 2) * (shift + rng.normal(size=n)), v

    unseen, others, members = world(600, 0), world(500, 0), world(500, 2)
    score = excess(np.concatenate([members[0], others[0]]), np.concatenate([members[1], others[1]]), *unseen, head=head)
    found = auc(score[:500], score[500:])
    assert auc(members[0], others[0]) < 0.72 and found > (0.89 if head == "gaussian" else 0.8)
    if head == "gaussian":
        assert score[500:].mean() == pytest.approx(0, abs=0.15) and score[500:].std() == pytest.approx(1, abs=0.2)


@pytest.mark.slow
def test_controls_on_memorised_labels():
    nothing, retrained = membership.controls("quantile", "quantile_auc")
    assert nothing.low > 0.5 and nothing.value > max(v.value for v in retrained)
