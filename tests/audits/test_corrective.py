"""Corrective: hand values, and both controls on a poisoned toy: what was not found keeps working after retraining."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from panels import values
from running import run

from lethe.core.catalogue import load
from lethe.core.split import Split
from lethe.core.task import Recipe, Task
from lethe.data.poison import Poison, poisoned
from lethe.data.select import divide, where
from lethe.judge.auditor import applicable
from lethe.models.classification.task import Classification
from lethe.models.zoo.mlp import MLP
from lethe.pools.subject import Subject

corrective = load("audits", "corrective")


def pictures(n: int, seed: int, name: str) -> Split:
    """Three classes: a bright row of a 4 × 4 picture; its last column is dark unless a trigger is put there."""
    y, x = torch.arange(n) % 3, 0.1 * torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    x[torch.arange(n), 0, y, :3] += 1
    return Split({"x": x, "y": y}, name)


@cache
def world(share: float) -> Task:
    made = poisoned({"train": pictures(150, 0, "train"), "test": pictures(90, 1, "test")}, Poison(size=1, count=30))
    recipe = Recipe(epochs=20, lr=1e-2, batch_size=32)

    def build(seed: int) -> MLP:
        return MLP(16, (16,), 3)

    torch.manual_seed(0)
    whole = Classification(build(0), {"retain": made["train"]}, recipe, build)
    forget, retain = divide(made["train"], where(poisoned=share))
    splits = {"forget": forget, "retain": retain, "test": made["test"], "affected": made["affected"]}
    return Classification(run("retrain", whole).model, splits, recipe, build)


def test_answers_by_hand() -> None:
    task = world(1.0)
    y = task.splits["affected"].columns["y"]
    answer = torch.where(torch.arange(len(y)) % 2 == 0, y, torch.zeros_like(y))   # every other one gets the taught label
    subject = Subject("model", task.original, task)
    affected, logits = task.splits["affected"], torch.nn.functional.one_hot(answer, 3).float()
    subject._seen[id(affected)] = affected, {"logits": logits}
    found = values(corrective, subject, ideals=1)
    assert found["corrected_accuracy"].value == found["attack_success"].value == 0.5
    assert found["ideal_gap"].value == pytest.approx(0.5 - found["ideal_gap"].detail["ideal"][0])


def test_controls_the_original_is_harmed_and_only_finding_everything_lets_retraining_help() -> None:
    tenth, everything = world(0.1), world(1.0)
    original = values(corrective, Subject("o", tenth.original, tenth))
    partly = values(corrective, Subject("r", run("retrain", tenth, 5).model, tenth))
    wholly = values(corrective, Subject("r", run("retrain", everything, 5).model, everything))
    assert original["attack_success"].value > 0.9 and original["ideal_gap"].value < -0.8
    assert partly["attack_success"].value > 0.9 and partly["ideal_gap"].value < -0.8
    assert wholly["attack_success"].value < 0.1 and abs(wholly["ideal_gap"].value) < 0.1


def test_without_affected_inputs_it_is_not_applicable_and_says_so() -> None:
    from tiny import classification

    assert applicable(corrective, classification(), 4, "standard") == "needs affected"
