"""Errors of regressors: hand values."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import said, values

from lethe.core.catalogue import load

errors = load("audits", "errors")
from lethe.audits.behaviour.errors import quantile_risk  # noqa: E402


def test_quantile_risk_golden():
    y, low = np.array([[1.0, 2.0], [3.0, 2.0]]), np.array([[0.0, 2.0], [2.0, 3.0]])
    # horizon 1: both 1 too low, 2·0.9·2/4; horizon 2: one 1 too high, 2·0.1·1/4
    assert quantile_risk(low, y, 0.9) == pytest.approx([0.9, 0.05]) and quantile_risk(y, y, 0.9) == pytest.approx([0, 0])


def test_errors_by_hand():
    task = tiny.regression()
    y = {key: split.columns["y"].numpy()[:, None] for key, split in task.splits.items()}
    wrong = {key: v + np.where(np.arange(len(v)) % 2, 3.0, -1.0)[:, None] for key, v in y.items()}
    off = said(task, **{key: {"prediction": wrong[key], "y": v} for key, v in y.items()})
    found = values(errors, off)
    assert found["mae_retain"].value == pytest.approx(2) and found["rmse_retain"].value == pytest.approx(np.sqrt(5))
    assert found["r2_retain"].value == pytest.approx(1 - 5 / y["retain"].var())
    assert found["mae_holdout"].detail["per_horizon"]["mae"] == pytest.approx([2])
