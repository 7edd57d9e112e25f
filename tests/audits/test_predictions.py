"""Predictions of regressors: hand values and the two controls."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import values

from lethe.core.catalogue import load
from lethe.pools.pool import train_pool
from lethe.pools.subject import Subject

errors, predictions = load("audits", "errors"), load("audits", "predictions")
from lethe.audits.distance.predictions import wasserstein  # noqa: E402


def test_wasserstein_golden():
    assert wasserstein(np.array([[3.0], [1.0]]), np.array([[1.0], [3.0]])) == 0            # the same answers, exchanged
    assert wasserstein(np.array([[0.0], [1.0]]), np.array([[5.0], [5.0]])) == pytest.approx(4.5)


def test_controls_the_original_still_predicts_the_range_it_should_have_lost():
    task = tiny.regression()
    fresh, *references = [Subject(f"r{i}", m, task) for i, m in enumerate(train_pool(task, count=5, strategy="serial").models)]
    original = Subject("o", task.original, task)
    before, retrained = (values(predictions, model, references) for model in (original, fresh))
    assert before["wasserstein_forget"].value > 2 * retrained["wasserstein_forget"].value
    assert all(v[f"wasserstein_{s}"].value <= v[f"prediction_distance_{s}"].value for v in (before, retrained)
               for s in ("forget", "retain", "holdout"))
    assert values(errors, original)["mae_forget"].value < values(errors, fresh)["mae_forget"].value
