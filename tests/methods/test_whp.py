"""WHP: generic logits, and a run by hand, with hard and with soft targets."""

from __future__ import annotations

import math

import byhand
import plain_lm as plain
import pytest
import tiny
import torch
from torch import nn

from lethe.methods.lm.whp import generic


def test_golden() -> None:
    found = generic(torch.zeros(2), torch.tensor([math.log(3), 0.0]), 2.0)
    assert found.tolist() == pytest.approx([math.log(0.5) - 2 * math.log(1.5), math.log(0.5)])
    assert found.tolist() == pytest.approx([-1.504077, -0.693147], abs=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_one_run_by_hand(soft: bool) -> None:
    """Two steps reinforce, one teaches."""
    task, lr, alpha, strength = tiny.lm(), 1.0, 0.4, 20.0
    found = byhand.run("whp", task, strength=strength, soft=soft, reinforce_lr=0.3, reinforce_epochs=2, alpha=alpha, lr=lr)
    reinforced = byhand.steps(task, [lambda m: plain.nll(m, task.forget)] * 2, lr=0.3)
    old, new = (plain.before(model, task.forget).log_softmax(-1) for model in (task.original, reinforced))
    v = old - strength * torch.where(new > old, new - old, 0.0)
    target = v.softmax(-1) if soft else nn.functional.one_hot(v.argmax(-1), v.shape[-1]).float()
    kept = plain.seen(task.original, task.forget)[2]
    assert (v.argmax(-1) != old.argmax(-1))[kept].any()

    def objective(m: nn.Module) -> torch.Tensor:
        z, _, kept = plain.seen(m, task.forget)
        return plain.mean(-(target * z.log_softmax(-1)).sum(-1), kept) + alpha * plain.nll(m, task.retain)

    byhand.assert_same(task, found, byhand.steps(task, [objective], lr=lr), atol=1e-5)
