"""Blindspot: the attention map by hand, its limit, and what it refuses."""

from __future__ import annotations

import byhand
import pytest
import torch
from running import run
from tiny import TASKS
from torch import nn

from lethe.core.modules import evaluating
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.errors import RequestError
from lethe.methods.regression.blindspot import attention_distance, attention_map
from lethe.models.regression.task import Regression


def test_attention_map_golden() -> None:
    # channels [3, 1] and [0, 1] at two positions: mean squares [(9 + 0)/2, (1 + 1)/2] = [4.5, 1], length √21.25
    activations = torch.tensor([[[3.0, 1.0], [0.0, 1.0]]])
    torch.testing.assert_close(attention_map(activations), torch.tensor([[4.5, 1.0]]) / 21.25**0.5)
    # [1, 0] against [0, 1]: (1 + 1)/2; the scale of activations does not matter
    one, other = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, -5.0]]])
    assert attention_distance(one, other).tolist() == [1.0] and attention_distance(one, 3 * one).tolist() == [0.0]


def test_the_student_says_what_the_blind_model_says_and_keeps_the_rest() -> None:
    task = TASKS["regression"]()
    outcome = run("blindspot", task, epochs=40.0, lr=3e-3)
    with evaluating(outcome.model):
        kept = float(task.nll(outcome.model, task.retain.batch(range(len(task.retain)))).mean())
        gone = float(task.nll(outcome.model, task.forget.batch(range(len(task.forget)))).mean())
        before = float(task.nll(task.original, task.forget.batch(range(len(task.forget)))).mean())
    assert kept < 0.1 and gone > 3 * before


def test_attention_needs_convolutions() -> None:
    with pytest.raises(RequestError, match="has none, so nothing was started"):
        run("blindspot", TASKS["regression"](), attention=50.0)


def test_attention_runs_on_convolutions_and_changes_the_result() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(24, 1, 4, 4, generator=rng), torch.randn(24, generator=rng)

    def build(seed: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 1))

    splits = {"forget": Split({"x": x[:8], "y": y[:8]}, "forget"), "retain": Split({"x": x[8:], "y": y[8:]}, "retain")}
    torch.manual_seed(0)
    task = Regression(build(0), splits, Recipe(), build)
    without, given = (run("blindspot", task, attention=beta).model for beta in (0.0, 50.0))
    assert not torch.equal(without[0].weight, given[0].weight)
    assert not given[0]._forward_hooks, "hooks are taken off again"


def test_a_step_of_the_blind_model_and_two_of_the_student_by_hand() -> None:
    task = byhand.regression()
    (x, y), (gone, _) = ([task.splits[name].columns[key] for key in "xy"] for name in ("retain", "forget"))
    blind = byhand.stepped(task.build(derive(0, "blindspot")), [lambda m: ((m(x)[:, 0] - y) ** 2).mean()], lr=0.2)
    said = blind(gone)[:, 0].detach()
    aim = [lambda m: (((m(x)[:, 0] - y) ** 2).sum() + ((m(gone)[:, 0] - said) ** 2).sum()) / 18] * 2
    found = byhand.run("blindspot", task, blind_epochs=1, blind_lr=0.2, epochs=2)
    byhand.assert_same(task, found, byhand.steps(task, aim))
