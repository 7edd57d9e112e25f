"""BASE: its score by hand, and that RMIA orders examples as BASE does when no z lies between them."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import said

from lethe.audits.membership.base import base_scores, log_true
from lethe.audits.membership.rmia import rmia_scores
from lethe.maths.membership import log_mean


def test_golden():
    p = np.log(np.array([[0.2, 0.5], [0.4, 0.1]]))
    assert base_scores(np.log([0.6, 0.3]), log_mean(p)) == pytest.approx(np.log([2.0, 1.0]))
    assert base_scores(np.log([0.6, 0.3]), log_mean(p), c=0) == pytest.approx(np.log([0.6, 0.3]))


def test_temperature_two_takes_the_root_of_the_odds():
    task = tiny.classification()
    logits = np.zeros((len(task.forget), 4))
    logits[:, 3] = np.log(4)              # the label: odds 4 to each other class, 2 at T = 2
    model = said(task, forget={"logits": logits})
    assert log_true([model], task.forget, 2.0)[0] == pytest.approx(np.full(len(task.forget), np.log(2 / 5)))


def test_rmia_is_a_monotone_function_of_base():
    rng = np.random.default_rng(0)
    log_p, pool = np.log(rng.random(50)), np.log(rng.random((4, 50)))
    score = base_scores(log_p, log_mean(pool))
    assert (np.diff(rmia_scores(score, rng.normal(size=200))[np.argsort(score)]) >= 0).all()
