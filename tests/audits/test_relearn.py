"""Relearn: curves on the half that is not relearned; models are left as they were."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from panels import pool, silenced, values

from lethe.core.catalogue import load
from lethe.core.modules import copied, state_fingerprint
from lethe.data.select import Where
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject

relearn = load("audits", "relearn")
from lethe.audits.recovery.relearn import checkpoints, halves, log_mean, nearest_first, relearn_time  # noqa: E402


def test_checkpoints_are_log_spaced_and_end_at_the_last_step():
    assert checkpoints(32) == [0, 1, 2, 4, 8, 16, 32] and checkpoints(20) == [0, 1, 2, 4, 8, 16, 20]
    assert checkpoints(1) == [0, 1]


def test_log_mean_golden():
    # log(1 + t) at 0, 1, 3: 0, ln 2, 2 ln 2; trapezoids ½(0 + 1)·ln 2 + 1·ln 2 over 2 ln 2 = ¾
    assert log_mean([0, 1, 3], np.array([[0.0], [1.0], [1.0]])) == pytest.approx(0.75)


@pytest.mark.parametrize(("curve", "steps"), [([0.9, 1, 1], 0), ([0, 0.5, 1], 3.2), ([0, 0.1, 0.2], 5)])
def test_relearn_time_is_interpolated_and_censored(curve, steps):
    assert relearn_time([0, 2, 4], np.array(curve), 0.8) == pytest.approx(steps)   # 2 + 2·(0.8 − 0.5)/0.5 = 3.2


def test_silenced_knowledge_comes_back_and_models_are_left_alone():
    task, references = tiny.classification(Where(label=3)), pool(Where(label=3), 4)
    original, quiet = Subject("o", task.original, task), Subject("q", silenced(task, 3), task)
    before = state_fingerprint(quiet.model), state_fingerprint(references[0].model)
    found = values(relearn, quiet, references, original)
    retrained = values(relearn, references[0], references[1:], original)
    assert found["relearn"].value > retrained["relearn"].value + 0.2
    assert found["ain"].value < 0.7 and retrained["ain"].value == pytest.approx(1, abs=0.2)
    curve = found["relearn"].detail["score"]
    assert curve[0] < 0.2 and curve[-1] == 1
    assert found["relearn_gain"].value == pytest.approx(found["relearn"].value - curve[0])
    assert (state_fingerprint(quiet.model), state_fingerprint(references[0].model)) == before


def test_halves_are_disjoint_and_the_same_for_all():
    task = tiny.classification(Where(label=3))
    panel = Panel(task, Subject("o", task.original, task), [])
    learned, tested = halves(panel)
    assert sorted([*learned.ids, *tested.ids]) == sorted(task.forget.ids) and halves(panel)[1] is tested


def test_ain_of_a_model_that_knows_is_one_step_against_all_of_theirs():
    task, references = tiny.classification(Where(label=3)), pool(Where(label=3), 4)
    original = Subject("o", task.original, task)
    found = values(relearn, original, references, original, steps=2)
    assert found["ain"].value == pytest.approx(1 / math.exp(math.log(4))) and found["ain"].detail["censored_references"] == 4


def test_nearest_first_golden():
    # deviations 1 and 100: the second column counts a hundredth
    x, to = np.array([[1.0, 200.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 200.0]]), np.array([[1.0, 300.0], [50.0, 0.0]])
    assert nearest_first(x, to).tolist() == [0, 3, 2, 1]   # 1, √5 = 2.2, 3, √13 = 3.6


def test_a_few_examples_bring_back_what_was_hidden_and_other_data_teach_a_retrained_model_nothing():
    task, references = tiny.classification(Where(label=3)), pool(Where(label=3), 4)
    original, quiet = Subject("o", task.original, task), Subject("q", silenced(task, 3), task)
    found = values(relearn, quiet, references, original)
    retrained = values(relearn, references[0], references[1:], original)
    assert found["relearn_few"].value > 0.5 and retrained["relearn_few"].value < 0.1
    for name in ("relearn_related", "relearn_unrelated"):
        assert retrained[name].value < 0.05 < values(relearn, original, references, original)[name].value
        assert found[name].detail["steps"] == checkpoints(32) and len(found[name].detail["score"]) == 7
    assert list(values(relearn, quiet, references, original, few=0, others=False)) == ["relearn", "relearn_gain", "ain"]


def test_one_step_by_hand():
    """F₁ is learned by one Adam step, F₂ is scored before and after; real targets, so that every score moves."""
    task = tiny.regression()
    subject = Subject("o", task.original, task)
    learned, tested = halves(Panel(task, subject, []))
    model, scores = copied(task.original, trainable=True).requires_grad_(True), []
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(2):
        with torch.no_grad():
            scores.append(task.observe(model, tested.batch(range(len(tested))))["score"].double().mean().item())
        adam.zero_grad()
        task.nll(model, learned.batch(range(len(learned)))).mean().backward()
        adam.step()
    found = values(relearn, subject, [subject], subject, steps=1, lr=0.01, batch_size=100, others=False, few=0)
    assert found["relearn"].detail["score"] == pytest.approx(scores, abs=1e-6) and abs(scores[1] - scores[0]) > 1e-3
    assert found["relearn"].value == pytest.approx(sum(scores) / 2, abs=1e-6)
