"""Errors and predictions of regressors: hand values and the two controls."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import said, values

from lethe.core.catalogue import load
from lethe.pools.pool import train_pool
from lethe.pools.subject import Subject

errors, predictions = load("audits", "errors"), load("audits", "predictions")
from lethe.audits.behaviour.errors import quantile_risk  # noqa: E402
from lethe.audits.distance.predictions import wasserstein  # noqa: E402


def test_quantile_risk_golden():
    y, low = np.array([[1.0, 2.0], [3.0, 2.0]]), np.array([[0.0, 2.0], [2.0, 3.0]])
    # horizon 1: both 1 too low, 2·0.9·2/4; horizon 2: one 1 too high, 2·0.1·1/4
    assert quantile_risk(low, y, 0.9) == pytest.approx([0.9, 0.05]) and quantile_risk(y, y, 0.9) == pytest.approx([0, 0])


def test_wasserstein_golden():
    assert wasserstein(np.array([[3.0], [1.0]]), np.array([[1.0], [3.0]])) == 0            # the same answers, exchanged
    assert wasserstein(np.array([[0.0], [1.0]]), np.array([[5.0], [5.0]])) == pytest.approx(4.5)


def test_errors_by_hand():
    task = tiny.regression()
    y = {key: split.columns["y"].numpy()[:, None] for key, split in task.splits.items()}
    wrong = {key: v + np.where(np.arange(len(v)) % 2, 3.0, -1.0)[:, None] for key, v in y.items()}
    off = said(task, **{key: {"prediction": wrong[key], "y": v} for key, v in y.items()})
    found = values(errors, off)
    assert found["mae_retain"].value == pytest.approx(2) and found["rmse_retain"].value == pytest.approx(np.sqrt(5))
    assert found["r2_retain"].value == pytest.approx(1 - 5 / y["retain"].var())
    assert found["mae_holdout"].detail["per_horizon"]["mae"] == pytest.approx([2])


def test_controls_the_original_still_predicts_the_range_it_should_have_lost():
    task = tiny.regression()
    fresh, *references = [Subject(f"r{i}", m, task) for i, m in enumerate(train_pool(task, count=5, strategy="loop").models)]
    original = Subject("o", task.original, task)
    before, retrained = (values(predictions, model, references) for model in (original, fresh))
    assert before["wasserstein_forget"].value > 2 * retrained["wasserstein_forget"].value
    assert all(v[f"wasserstein_{s}"].value <= v[f"prediction_distance_{s}"].value for v in (before, retrained)
               for s in ("forget", "retain", "holdout"))
    assert values(errors, original)["mae_forget"].value < values(errors, fresh)["mae_forget"].value
