"""Blind split: a shifted holdout is found without a model, an exchangeable one is not."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import said, values

from lethe.audits.membership.blind_split import blind_scores, raw
from lethe.core.catalogue import load
from lethe.core.split import Split
from lethe.data.select import Where
from lethe.maths.statistics import auc

blind_split = load("audits", "blind_split")


def test_a_shift_is_found_with_the_auc_of_its_size():
    """Shift of one standard deviation in one of ten dimensions: at best Φ(1/√2) = 0.76; without it ½."""
    rng = np.random.default_rng(0)
    member = np.arange(600) < 200
    x = rng.normal(size=(600, 10))
    for shift, low, high in ((0.0, 0.42, 0.56), (1.0, 0.70, 0.79)):
        moved = x + shift * member[:, None] * (np.arange(10) == 0)
        score = blind_scores(moved, member, 5, np.random.default_rng(1))
        assert low < auc(score[member], score[~member]) < high


def test_audit_warns_of_a_biased_split_and_says_the_same_for_every_model():
    task = tiny.classification(Where(fraction=0.25))
    fair = values(blind_split, said(task))["blind_split_auc"]
    assert fair.value < 0.55 and "warning" not in fair.detail
    x = task.holdout.columns["x"]
    moved = task.replaced(task.original, holdout=Split({"x": x + 2, "y": task.holdout.columns["y"]}, "holdout"))
    biased = values(blind_split, said(moved))["blind_split_auc"]
    assert biased.value > 0.9 and "inputs alone" in biased.detail["warning"]
    assert "warning" not in values(blind_split, said(moved), warn=1.0)["blind_split_auc"].detail


@pytest.mark.slow
def test_text_is_counted_by_token():
    task = tiny.lm()
    counts = raw(task.forget)
    assert counts.shape[1] == 512 and counts.sum(1) == pytest.approx(task.forget.columns["length"].numpy())
