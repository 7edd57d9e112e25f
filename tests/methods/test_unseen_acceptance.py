"""Defaults on problems that none was chosen on, run as users run them: each model ends within its floor on data that neither the
method nor the watchdog saw.

Without the watchdog, measured: delete .996 -> .683, boundary_shrink -> .700, salun -> .954 (one speaker of six), delete .975 ->
.752 and boundary_shrink -> .450 (two pictures).
"""

from __future__ import annotations

import pytest
from torch import nn
from unseen_problems import PROBLEMS

import lethe
from lethe.core.modules import evaluating
from lethe.core.task import Task
from lethe.train.watchdog import Watch, Watchdog

pytestmark = pytest.mark.slow

METHODS = ("delete", "boundary_shrink", "salun", "scrub", "gradient_ascent", "random_label", "finetune")
ERROR = 0.016   # two standard errors of a difference of which 5 % disagree, n = 800


def accuracy(task: Task, model: nn.Module) -> float:
    with evaluating(model):
        return float(task.observe(model, task.test.batch(range(len(task.test))))["score"].mean())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_default_ends_within_its_floor_on_unseen_data_or_says_why_not(problem: str, name: str) -> None:
    task = PROBLEMS[problem]()
    points = Watch(Watchdog(), task, "cpu", 0).points
    assert points == (1.0 if problem == "two_pictures" else 3.0)
    out = lethe.forget(task, name, progress=False)
    assert accuracy(task, out.model) >= accuracy(task, task.original) - points / 100 - ERROR
    assert out.fall is None or any("the watchdog ended the run" in note for note in out.notes)


def test_without_the_watchdog_two_deleted_pictures_ruin_the_model() -> None:
    """The problem is one: without it the numbers above say nothing."""
    task = PROBLEMS["two_pictures"]()
    assert accuracy(task, lethe.forget(task, "boundary_shrink", watchdog=False, progress=False).model) < 0.7
