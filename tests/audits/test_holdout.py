"""Holdout: which examples are hard by hand, a model that was trained on the holdout, and one that was not."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import said, values

from lethe.core.catalogue import load
from lethe.data.select import Where

holdout = load("audits", "holdout")
from lethe.audits.membership.holdout import hard  # noqa: E402


def test_hard_is_below_one_half_on_average_and_the_lowest_tenth_where_there_is_no_half() -> None:
    assert hard(np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])).tolist() == [False, True, True]
    assert hard(np.arange(-30.0, -10.0)[None]).tolist() == [True, True, *[False] * 18]   # the 10 % quantile lies at −28.1


def test_controls_a_model_that_saw_the_holdout_knows_what_retrained_ones_get_wrong() -> None:
    task = tiny.classification(Where(count=40))
    n = len(task.holdout)
    wrong = np.arange(n) % 6 == 0   # 20 of 120, for every retrained model but one, who gets one of them right
    references = [said(task, f"r{i}", holdout={"score": 1.0 - wrong}) for i in range(4)]
    saw, fresh = (said(task, "m", holdout={"score": score}) for score in (np.ones(n), 1.0 - wrong))
    assert values(holdout, saw, references)["holdout_hard"].value == 1
    assert values(holdout, fresh, references)["holdout_hard"].value == 0
    assert values(holdout, fresh, references)["holdout_hard"].n == 20


def test_a_class_that_is_to_vanish_is_not_hard_and_few_examples_say_nothing() -> None:
    task = tiny.classification(Where(label=3))
    y = task.holdout.columns["y"].numpy()
    wrong = (y == 3) | (np.arange(len(y)) < 12)
    references = [said(task, f"r{i}", holdout={"score": 1.0 - wrong}) for i in range(3)]
    found = values(holdout, references[0], references[1:])
    assert found["holdout_hard"].n == ((y != 3) & (np.arange(len(y)) < 12)).sum() == pytest.approx(9)
    assert values(holdout, references[0], references[1:], fewest=10) == {}
