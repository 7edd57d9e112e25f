"""Recent methods on the two problems of test_acceptance_digits: a class of digits, and memorised wrong labels; 3 seeds each."""

from __future__ import annotations

from statistics import mean

import pytest
from test_acceptance_digits import accuracy, distance, judged, problem, retrained_test_accuracy, run, scores

import lethe

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["mu_mis", "duck", "slug", "stochastic_teacher", "loft", "concept_poisoning"])
def test_a_class_goes_and_looks_more_like_retraining_than_random_labels(name: str) -> None:
    found = scores("class", name)
    assert found.forget <= 5 and found.test >= retrained_test_accuracy("class") - 3
    assert found.js < scores("class", "random_label").js < scores("class", "original").js


def test_stochastic_teacher_beats_bad_teacher_on_a_class() -> None:
    assert scores("class", "stochastic_teacher").js < scores("class", "bad_teacher").js - 0.1


def test_scar_forgets_a_class_without_retained_and_without_forgotten_data() -> None:
    tasks, retrained = problem("class")
    for lacking, options in (("retain", {}), ("forget", {"forget_class": 3})):
        parts = [task.replaced(task.original, **{lacking: None}) for task in tasks]
        models = [run(task, "scar", seed, **options) for seed, task in enumerate(parts)]
        found = judged("class", models)
        assert found.forget <= 3 and found.test >= retrained_test_accuracy("class") - 3
        assert mean(distance(t, m, retrained) for t, m in zip(tasks, models, strict=True)) < scores("class", "random_label").js


@pytest.mark.parametrize("name", ["duck", "concept_poisoning", "stochastic_teacher"])
def test_wrong_labels_go(name: str) -> None:
    found = scores("labels", name)
    assert found.js < scores("labels", "scrub").js and found.retain >= 97 and found.forget <= 20


@pytest.mark.parametrize("name", ["slug", "loft"])
def test_what_edits_a_layer_ruins_the_model_on_wrong_labels_and_the_watchdog_takes_it_back(name: str) -> None:
    """The known failure; should it ever vanish, the documentation must change."""
    for seed, task in enumerate(problem("labels").tasks):
        ruined = lethe.forget(task, name, seed=seed, watchdog=False, progress=False).model
        assert accuracy(task, ruined, task.retain) < 60
        watched = lethe.forget(task, name, seed=seed, progress=False)
        assert watched.fall and watched.unchanged


def test_mu_mis_does_next_to_nothing_to_wrong_labels() -> None:
    assert scores("labels", "mu_mis").forget > 80


def test_laf_forgets_a_class_without_labels_but_answers_unlike_retraining() -> None:
    task = problem("class").tasks[0]
    model = run(task, "laf", 0)
    assert accuracy(task, model, task.forget) <= 15
    assert accuracy(task, model, task.test) >= accuracy(task, task.original, task.test) - 4
    assert distance(task, model, problem("class").retrained) > 0.4
