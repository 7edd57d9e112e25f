"""Steering: one push brings a hidden class back."""

from __future__ import annotations

import pytest
import tiny
from fakes import hidden_by_finetuning, refusal_filter
from panels import pool, values

from lethe.core.catalogue import load
from lethe.core.evidence import INSIDE
from lethe.core.modules import state_fingerprint
from lethe.data.select import Where
from lethe.judge.auditor import examine
from lethe.pools.subject import Subject

steering, geometry, scores = (load("audits", name) for name in ("steering", "label_geometry", "scores"))


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
