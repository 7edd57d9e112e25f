"""Gradient ascent climbs the forget loss, by steps no longer than the clip allows."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import nll
from running import run
from tiny import classification


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_one_step_goes_up_the_gradient(clip: float | None) -> None:
    task = classification()
    model = task.copy_of_original()
    task.nll(model, task.forget.batch(range(len(task.forget)))).mean().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norm = torch.stack([g.norm() for g in grads.values()]).norm()
    scale = 1.0 if clip is None else float(clip / norm)
    assert clip is None or scale < 1, "the clip must bite, or the test says nothing"
    outcome = run("gradient_ascent", task, batch_size=len(task.forget), epochs=1, lr=0.5, clip=clip)
    for name, p in model.named_parameters():
        torch.testing.assert_close(outcome.model.get_parameter(name), p + 0.5 * scale * grads[name])


def test_the_loss_on_forgotten_data_rises() -> None:
    task = classification()
    batch = task.forget.batch(range(len(task.forget)))
    outcome = run("gradient_ascent", task, lr=3e-2)
    assert task.nll(outcome.model, batch).mean() > 2 * task.nll(task.original, batch).mean()


def test_one_step_by_hand() -> None:
    task = byhand.classification()
    byhand.assert_same(task, byhand.run("gradient_ascent", task), byhand.steps(task, [lambda m: -nll(m, task.forget)]))
