"""Gaussian fine-tuning: the drawn targets by hand, and that they are drawn once."""

from __future__ import annotations

from typing import Any

import byhand
import pytest
import torch
from running import run
from tiny import TASKS
from torch import Tensor, nn

from lethe.core.seeds import generator
from lethe.methods.regression.gaussian_finetune import gaussian_targets
from lethe.train.loop import Loop, Term


def test_golden_targets() -> None:
    train = torch.tensor([0.0, 2.0])   # mean 1, deviation 1 (of the population), range 0 to 2
    assert gaussian_targets(train, torch.tensor([0.5, -3.0, 9.0])).tolist() == [1.5, 0.0, 2.0]
    # two horizons share their z: means 1 and 10, deviations 1 and 0
    both = torch.tensor([[0.0, 10.0], [2.0, 10.0]])
    assert gaussian_targets(both, torch.tensor([-0.5])).tolist() == [[0.5, 10.0]]


def test_other_targets_are_drawn_once_and_the_retained_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def caught(self: Loop, model: nn.Module, terms: dict[str, Term], **options: Any) -> nn.Module:
        term = terms["train"]
        assert term.prepare is None, "nothing is drawn anew at each step"
        seen.append(term.split.columns["y"])
        return model

    monkeypatch.setattr(Loop, "minimise", caught)
    task = TASKS["regression"]()
    for seed in (0, 0, 1):
        run("gaussian_finetune", task, seed)
    kept = len(task.retain)
    assert torch.equal(seen[0][:kept], task.retain.columns["y"]) and torch.equal(seen[0], seen[1])
    true = torch.cat([task.retain.columns["y"], task.forget.columns["y"]])
    assert not torch.equal(seen[0][kept:], seen[2][kept:]) and seen[0][kept:].max() <= true.max()
    assert abs(float(seen[0][kept:].mean() - true.mean())) < 0.5 * float(true.std())   # 28 draws: sd of the mean is 0.19 of it


def test_two_steps_by_hand() -> None:
    task = byhand.regression()
    x = torch.cat([task.retain.columns["x"], task.forget.columns["x"]])
    true = torch.cat([task.retain.columns["y"], task.forget.columns["y"]])
    z = torch.randn(6, generator=generator(0, "gaussian targets"))
    other = true.mean() + z * ((true - true.mean()) ** 2).mean() ** 0.5
    assert ((other > true.max()) | (other < true.min())).any()
    y = torch.cat([task.retain.columns["y"], other.clamp(true.min(), true.max())])
    aim = [lambda m: ((m(x)[:, 0] - y) ** 2).sum() / 18] * 2
    byhand.assert_same(task, byhand.run("gaussian_finetune", task, epochs=2), byhand.steps(task, aim))
