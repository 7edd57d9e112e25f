"""Prune-then-unlearn: what is pruned stays exactly zero; without pruning it is fine-tuning."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import nll
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint

SAME = {"lr": 1e-2, "epochs": 2}


def test_the_smallest_weights_of_all_matrices_are_zero_for_good() -> None:
    task = classification()
    model = run("prune_unlearn", task, sparsity=0.75, recover_epochs=2, **SAME).model
    before = torch.cat([p.flatten() for p in task.original.parameters() if p.dim() > 1])
    now = torch.cat([p.flatten() for p in model.parameters() if p.dim() > 1])
    small = before.abs() < before.abs().sort().values[len(before) * 3 // 4]
    assert small.sum() == 120   # ¾ of 6·16 + 16·4 entries
    assert torch.equal(now == 0, small)
    assert all((p != 0).all() for p in model.parameters() if p.dim() == 1)


@pytest.mark.parametrize(("alpha", "other"), [(0.0, {"name": "finetune"}), (1e-3, {"name": "l1_sparse", "alpha": 1e-3})])
def test_without_pruning_it_is_the_unlearner(alpha: float, other: dict) -> None:
    task = classification()
    dense = run("prune_unlearn", task, sparsity=0.0, recover_epochs=0, alpha=alpha, **SAME)
    plain = run(task=task, **other, **SAME)
    assert state_fingerprint(dense.model) == state_fingerprint(plain.model)


def test_recovery_sees_the_forget_set_and_unlearning_does_not() -> None:
    task = classification()
    recovered = run("prune_unlearn", task, sparsity=0.5, recover_epochs=20, lr=1e-12, epochs=1).model
    batch = task.forget.batch(range(len(task.forget)))
    with torch.no_grad():
        assert float(task.nll(recovered, batch).mean()) < 0.3


def test_one_step_by_hand() -> None:
    task = byhand.classification()
    wanted, masks = byhand.trainable(task.original), {}
    matrices = {name: p for name, p in wanted.named_parameters() if p.dim() > 1}
    every = torch.cat([p.abs().flatten() for p in matrices.values()]).sort().values
    cut = every[-round(0.6 * len(every))]   # the smallest of the 60 % that are left
    for name, p in matrices.items():
        masks[name] = (p.abs() >= cut).detach()
        p.data.mul_(masks[name])
    step = byhand.gradient(wanted, lambda m: nll(m, task.retain) + 0.05 * sum(p.abs().sum() for p in m.parameters()))
    for name, p in wanted.named_parameters():
        p.data.sub_(byhand.LR * step[name] * masks.get(name, 1.0))
    byhand.assert_same(task, byhand.run("prune_unlearn", task, sparsity=0.4, recover_epochs=0, alpha=0.05), wanted)


def test_recovery_is_a_step_on_everything_by_hand() -> None:
    task = byhand.classification()
    both = byhand.steps(task, [lambda m: (6 * nll(m, task.forget) + 12 * nll(m, task.retain)) / 18], lr=0.3)
    wanted = byhand.stepped(both, [lambda m: nll(m, task.retain)])
    byhand.assert_same(task, byhand.run("prune_unlearn", task, sparsity=0.0, recover_epochs=1, recover_lr=0.3), wanted)
