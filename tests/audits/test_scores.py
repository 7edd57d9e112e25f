"""Scores: means on each split, with class removal kept separate."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import said, values

from lethe.core.catalogue import load
from lethe.data.select import Where
from lethe.maths.statistics import mean_interval, wilson

scores = load("audits", "scores")


def answers(task):
    """Right on every second example of forget, every third of retain, all holdout but class 3; loss = position."""
    y = task.holdout.columns["y"].numpy()
    n, m = len(task.forget), len(task.retain)
    return said(task, forget={"score": np.arange(n) % 2 == 0, "nll": np.arange(n)},
                retain={"score": np.arange(m) % 3 == 0, "nll": np.arange(m)}, holdout={"score": y != 3, "nll": y})


def test_class_removal_divides_holdout():
    found = values(scores, answers(tiny.classification()))
    assert found["forget_accuracy"].value == 0.5 and found["retain_accuracy"].value == pytest.approx(1 / 3)
    assert found["holdout_accuracy"].value == 1 and found["removed_accuracy"].value == 0
    assert found["holdout_loss"].value == pytest.approx(1) and found["removed_loss"].value == 3   # classes 0, 1, 2 and 3
    assert (found["removed_accuracy"].n, found["holdout_accuracy"].n) == (30, 90)


def test_random_forgetting_keeps_holdout_whole():
    found = values(scores, answers(tiny.classification(Where(fraction=0.1))))
    assert found["holdout_accuracy"].value == 0.75 and "removed_accuracy" not in found


def test_intervals_are_wilsons_for_right_or_wrong_and_students_for_losses():
    found = values(scores, answers(tiny.classification()))
    assert (found["forget_accuracy"].low, found["forget_accuracy"].high) == pytest.approx(wilson(20, 40))
    assert (found["forget_loss"].low, found["forget_loss"].high) == pytest.approx(mean_interval(range(40)))


def test_retain_is_sampled_down():
    assert values(scores, answers(tiny.classification()), limit=200)["retain_loss"].n == 120
