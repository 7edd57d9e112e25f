"""Threshold: the population attack compares the forget set with unseen examples of the same labels."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import said, values

from lethe.core.catalogue import load
from lethe.data.select import Where

threshold = load("audits", "threshold")


def test_holdout_of_other_labels_does_not_count():
    """Class 3 is forgotten; its holdout scores 1, the other classes 9, the forget set 5 and the retain set 7."""
    task = tiny.classification()
    y = task.holdout.columns["y"].numpy()
    model = said(task, forget={"signal": np.full(len(task.forget), 5.0)}, holdout={"signal": np.where(y == 3, 1.0, 9.0)},
                 retain={"signal": np.full(len(task.retain), 7.0)})
    found = values(threshold, model)
    assert found["mia_auc"].value == 1 and found["mia_retain_auc"].value == 0
    assert found["mia_auc"].detail["others"] == 30
    assert found["mia_tpr_at_10"].value == 1 and "mia_tpr_at_1" not in found    # 30 others cannot resolve 1 %
    assert found["mia_tpr_at_10"].detail["false_alarms"] == 0


def test_sign_turns_the_attack_round():
    task = tiny.classification(Where(fraction=0.25))
    rng = np.random.default_rng(0)
    sizes = {key: len(getattr(task, key)) for key in ("forget", "retain", "holdout")}
    signal = {key: rng.normal(key == "forget", 1, n) for key, n in sizes.items()}
    ahead = values(threshold, said(task, **{key: {"signal": x} for key, x in signal.items()}))
    back = values(threshold, said(task, **{key: {"signal": -x} for key, x in signal.items()}))
    assert ahead["mia_auc"].value > 0.65 and back["mia_auc"].value == pytest.approx(1 - ahead["mia_auc"].value)
    assert ahead["mia_auc"].low < ahead["mia_auc"].value < ahead["mia_auc"].high
    curve = ahead["mia_auc"].detail["roc"]
    assert abs(np.trapezoid(curve["tpr"], curve["fpr"]) - ahead["mia_auc"].value) < 0.02


def test_too_few_unseen_examples_report_nothing():
    task = tiny.classification()
    model = said(task, forget={"signal": np.zeros(40)}, holdout={"signal": np.zeros(120)}, retain={"signal": np.zeros(120)})
    assert values(threshold, model, fewest=31) == {}
