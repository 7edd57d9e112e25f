"""Retraining: the recipe on the retain set, from a fresh model, with new seeds."""

from __future__ import annotations

import byhand
import torch
from byhand import nll
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint
from lethe.core.seeds import derive
from lethe.core.task import Recipe
from lethe.models.classification.task import Classification
from lethe.models.zoo.mlp import MLP


def test_it_never_saw_the_class_and_knows_the_rest() -> None:
    task = classification()
    model = run("retrain", task).model
    with torch.no_grad():
        score = {n: float(task.observe(model, s.batch(range(len(s))))["score"].mean()) for n, s in task.splits.items()}
    assert score["forget"] == 0 and score["retain"] > 0.9


def test_the_trained_weights_leave_no_trace() -> None:
    """Two originals that differ only in their weights are retrained to the same bits."""
    task = classification()
    splits = {n: task.splits[n] for n in ("forget", "retain")}
    recipe = Recipe(epochs=2, batch_size=32)

    def build(seed: int) -> MLP:
        return MLP(6, (16,), 4)

    other = Classification(build(0), splits, recipe, build)
    same = Classification(task.original, splits, recipe, build)
    assert state_fingerprint(run("retrain", other).model) == state_fingerprint(run("retrain", same).model)
    assert state_fingerprint(run("retrain", same, seed=1).model) != state_fingerprint(run("retrain", same).model)


def test_one_step_by_hand() -> None:
    task = byhand.classification()
    wanted = byhand.stepped(task.build(derive(0, "retrain")), [lambda m: nll(m, task.retain)])
    byhand.assert_same(task, byhand.run("retrain", task), wanted)
