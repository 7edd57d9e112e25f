"""EU-k: the last blocks start from fresh weights; with all of them it is retraining."""

from __future__ import annotations

import byhand
import torch
from byhand import nll
from running import run
from tiny import classification
from torch import nn

from lethe.core.modules import state_fingerprint
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.models.classification.task import Classification


def test_all_blocks_is_retraining() -> None:
    task = classification()
    assert state_fingerprint(run("eu_k", task, k=2).model) == state_fingerprint(run("retrain", task).model)


def test_frozen_blocks_stay_and_the_others_keep_nothing() -> None:
    """With a learning rate of nearly 0 the head is that of the fresh model of the same seed."""
    x, y = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    splits = {"forget": Split({"x": x[:2], "y": y[:2]}, "forget"), "retain": Split({"x": x[2:], "y": y[2:]}, "retain")}

    def build(seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.BatchNorm1d(2))

    original = build(0)
    with torch.no_grad():
        for value in original.buffers():
            value.fill_(7)
    task = Classification(original, splits, Recipe(epochs=1, lr=1e-12, batch_size=6, optimiser="sgd"), build)
    unlearned, retrained = run("eu_k", task, k=1).model, run("retrain", task).model
    for name in ("0.weight", "0.bias", "1.weight"):
        assert torch.equal(unlearned.get_parameter(name), original.get_parameter(name))
    for name in ("2.weight", "2.bias"):
        torch.testing.assert_close(unlearned.get_parameter(name), retrained.get_parameter(name))
    assert (unlearned.get_buffer("3.running_var") < 2).all()   # 1 before the step, not the original's 7


def test_one_step_by_hand() -> None:
    """The head starts afresh and takes one step of the recipe; the body is the original's."""
    task = byhand.classification()
    start = byhand.trainable(task.original)
    start.head.load_state_dict(task.build(derive(0, "retrain")).head.state_dict())
    wanted = byhand.stepped(start, [lambda m: nll(m, task.retain)])
    wanted.body.load_state_dict(task.original.body.state_dict())
    byhand.assert_same(task, byhand.run("eu_k", task, k=1), wanted)
