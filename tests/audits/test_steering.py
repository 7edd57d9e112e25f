"""Steering and label geometry: one push, or the answers about other classes, bring a hidden class back."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from fakes import hidden_by_finetuning, refusal_filter, zeroed_column
from panels import pool, said, values

from lethe.core.catalogue import load
from lethe.core.evidence import INSIDE
from lethe.core.modules import state_fingerprint
from lethe.data.select import Where
from lethe.judge.auditor import examine
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject

steering, geometry, scores = (load("audits", name) for name in ("steering", "label_geometry", "scores"))
from lethe.audits.recovery.label_geometry import class_means, nearest, others  # noqa: E402


def test_controls_and_a_head_that_was_talked_out_of_it():
    task, (fresh, *references) = tiny.classification(Where(label=3)), pool(Where(label=3), 8)
    hidden = hidden_by_finetuning(task, 0)
    before = state_fingerprint(hidden), state_fingerprint(fresh.model)
    subjects = [Subject("hidden", hidden, task), Subject("fresh", fresh.model, task)]
    found = examine(task, subjects, Subject("original", task.original, task), references,
                    [(a, a.config()) for a in (scores, steering)])
    by = {name: {e.metric: e for e in items} for name, items in found.items()}
    assert by["original"]["steering"].direction == by["hidden"]["steering"].direction == "still knows"
    assert by["hidden"]["forget_accuracy"].value < 0.3 < by["hidden"]["steering_gain"].value
    assert by["original"]["universal"].value > 0.9 and by["fresh"]["universal"].value < 0.1
    assert by["fresh"]["steering"].verdict == INSIDE
    assert (state_fingerprint(hidden), state_fingerprint(fresh.model)) == before


def test_no_push_is_the_score_and_false_alarms_are_taken_off():
    task = tiny.classification(Where(label=3))
    original = Subject("o", task.original, task)
    still = values(steering, original, (), original, sizes=(0.0,), epsilon=1e-9)
    assert still["steering"].value == still["universal"].value > 0.9
    wild = values(steering, original, (), original, epsilon=50.0, steps=100)
    assert wild["universal"].value == 1 and wild["universal_gain"].value < 0.2   # everything is class 3 now
    for name in ("steering", "universal"):
        gain = wild[f"{name}_gain"]
        assert gain.value == pytest.approx(wild[name].value - gain.detail["false"])


def test_a_filter_does_not_hide_the_features_from_a_push():
    task = tiny.classification(Where(label=3))
    original, guarded = Subject("o", task.original, task), Subject("g", refusal_filter(task, 0), task)
    assert values(steering, guarded, (), original)["steering"].value > 0.9


def test_random_requests_say_nothing():
    task = tiny.classification(Where(count=20))
    original = Subject("o", task.original, task)
    assert values(steering, original, (), original) == {} == values(geometry, original, (), original)


# -- label geometry --------------------------------------------------------------------------------------------------------


def test_others_are_the_posteriors_given_the_classes_that_stay():
    task = tiny.classification(Where(label=3))
    logits = np.log(np.array([[1.0, 2.0, 5.0, 100.0]])).repeat(len(task.forget), 0)
    subject = said(task, forget={"logits": logits})
    assert np.exp(others(subject, task.forget, np.array([3])))[0] == pytest.approx([1 / 8, 1 / 4, 5 / 8])


def test_nearest_golden():
    means = class_means(np.array([[0.0, 0.0], [2.0, 0.0], [9.0, 9.0]]), np.array([4, 4, 7]))
    assert means[4].tolist() == [1, 0] and nearest(np.array([[2.0, 1.0], [8.0, 8.0]]), means).tolist() == [4, 7]


def test_a_cut_off_class_is_recovered_from_the_others_as_from_the_original():
    task, references = tiny.classification(Where(label=3)), pool(Where(label=3), 4)
    original, cut = Subject("o", task.original, task), Subject("c", zeroed_column(task, 0), task)
    panel = Panel(task, original, references)
    before, after = ({v.metric: v.value for v in geometry.measure(geometry.config(), s, panel)} for s in (original, cut))
    assert cut.numbers(task.forget, "score").mean() == 0
    assert after == before and after["geometry_recall"] > 0.75
    fresh = [values(geometry, r, (), original)["geometry_recall"].value for r in references]
    assert np.mean(fresh) < after["geometry_recall"] - 0.1


def test_a_model_without_shadow_gives_nothing_away():
    """Examples of class 3 answer exactly as class 0 does: their means coincide, and ties go to class 0."""
    task = tiny.classification(Where(label=3))
    labels = {key: getattr(task, key).columns["y"] for key in ("forget", "retain", "holdout")}
    subject = said(task, "u", **{key: {"logits": 9.0 * torch.eye(4)[torch.where(y == 3, 0, y)]} for key, y in labels.items()})
    found = {v.metric: v.value for v in geometry.measure(geometry.config(), subject, Panel(task, subject, []))}
    assert found["geometry_recall"] == 0
