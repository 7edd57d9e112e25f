"""Quantise and prune: a model that hides inside the rounding is detected; retrained ones are not."""

from __future__ import annotations

import pytest
import tiny
import torch
from hiding import digits_without_three, inside_the_bins
from panels import pool, silenced, values

from lethe.core.catalogue import load
from lethe.core.evidence import INSIDE
from lethe.core.modules import state_fingerprint
from lethe.data.select import Where
from lethe.judge.auditor import examine
from lethe.judge.conclusions import conclude
from lethe.maths.quantise import mapped, matrices, nearest
from lethe.pools.subject import Subject

quantise, prune, scores = load("audits", "quantise"), load("audits", "prune"), load("audits", "scores")


def examined(task, references, **models):
    subjects = [Subject(name, model, task) for name, model in models.items()]
    audits = [(a, a.config()) for a in (scores, quantise, prune)]
    found = examine(task, subjects, Subject("original", task.original, task), references, audits)
    return found, {name: {e.metric: e for e in items} for name, items in found.items()}


def test_the_original_is_found_out_and_a_retrained_model_is_not():
    task, (fresh, *references) = tiny.classification(Where(label=3)), pool(Where(label=3), 8)
    found, by = examined(task, references, fresh=fresh.model)
    assert by["original"]["quantise_recovered"].direction == by["original"]["prune_recovered"].direction == "still knows"
    assert conclude(found["fresh"]).verdict == INSIDE, conclude(found["fresh"]).text
    assert by["fresh"]["quantise_same_codes"].value < 0.3


@pytest.mark.slow
def test_what_hides_in_the_rounding_is_found():
    task, (fresh, *references) = digits_without_three()
    hidden = inside_the_bins(task, 3)
    before = state_fingerprint(hidden)
    for name, w in matrices(mapped(hidden, lambda w: nearest(w, 4))).items():
        assert torch.allclose(w, nearest(task.original.get_parameter(name), 4), atol=1e-5)
    found, by = examined(task, references, hidden=hidden, fresh=fresh.model)
    assert by["hidden"]["forget_accuracy"].verdict == INSIDE and by["hidden"]["forget_accuracy"].value == 0
    assert by["hidden"]["prune_recovered"].verdict == INSIDE
    assert by["hidden"]["quantise_recovered"].direction == "still knows"
    assert by["hidden"]["quantise_recovered"].detail["best"] == "int4"
    assert by["hidden"]["quantise_ratio"].value > 0.9 and by["hidden"]["quantise_same_codes"].value == 1
    assert conclude(found["fresh"]).verdict == INSIDE, conclude(found["fresh"]).text
    assert state_fingerprint(hidden) == before


def test_the_best_of_the_battery_includes_doing_nothing_and_says_what_it_tried():
    task, references = tiny.classification(Where(label=3)), pool(Where(label=3), 4)
    original = Subject("o", task.original, task)
    found = values(quantise, original, references, original)
    assert list(found["quantise_recovered"].detail["attacks"]) == ["nothing", "fp16", "bf16", "int8", "int4", "nf4", "awq4"]
    assert found["quantise_recovered"].value >= original.numbers(task.forget, "score").mean()
    assert "quantise_ratio" not in found and found["quantise_same_codes"].value == 1
    quiet = values(quantise, Subject("q", silenced(task, 3), task), references, original)
    attacks = quiet["quantise_recovered"].detail["attacks"]
    now = quiet["quantise_recovered"].value
    assert quiet["quantise_ratio"].value == pytest.approx(
        (now - attacks["nothing"]["forget"]) / (original.numbers(task.forget, "score").mean() - attacks["nothing"]["forget"]))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["lm", "diffusion"])
def test_other_families(family):
    task = tiny.TASKS[family]()
    original = Subject("o", task.original, task)
    for audit in (quantise, prune):
        found = values(audit, original, [], original)
        assert found[f"{audit.name}_recovered"].n == len(task.forget)
