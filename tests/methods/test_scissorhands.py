"""Scissorhands: which entries are drawn anew, the projection, a repairing step by hand, and that it forgets a class."""

from __future__ import annotations

import math

import byhand
import pytest
import torch
from byhand import nll
from running import as_users, run
from tiny import classification

from lethe.core.modules import state_fingerprint
from lethe.methods.general.scissorhands import along


def test_golden_projection() -> None:
    four = torch.tensor([[4.0]])
    assert along(torch.tensor([-6.0]), four, 0.5).tolist() == pytest.approx([6 / 4.001])
    assert along(torch.tensor([-1.0]), four, 0.5).tolist() == [0.5]
    p, q = torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.tensor([-3.0, 4.0])   # the second at its bound 0: v_1 = 3/2
    assert along(q, p, 0.0).tolist() == pytest.approx([3 / 2.001, 0.0])


def test_what_the_forget_set_hangs_on_is_drawn_anew() -> None:
    task = byhand.classification()
    found = byhand.run("scissorhands", task, share=0.2, lamb=0.0, memories=0, lr=1e-12)
    slopes = byhand.gradient(byhand.trainable(task.original), lambda m: nll(m, task.forget))
    scores = {name: (p * slopes[name]).detach().abs() for name, p in task.original.named_parameters()}
    every = torch.cat([s.flatten() for s in scores.values()]).sort().values
    cut = every[-round(0.2 * len(every))]
    for name, p in task.original.named_parameters():
        now, gone = found.get_parameter(name).detach(), scores[name] >= cut
        assert torch.allclose(now[~gone], p[~gone], atol=1e-9)
        if name.endswith("bias"):
            assert torch.all(now[gone].abs() < 1e-9)
        else:
            assert torch.all(now[gone] != p[gone]) and torch.all(now[gone].abs() <= 1 / math.sqrt(p.shape[1]))


@pytest.mark.parametrize("margin", [0.0, 5.0])
def test_a_repairing_step_by_hand(margin: float) -> None:
    """Along g + v·m where g leads back to the forgotten data: retained data of the same kind do, at λ near 0."""
    task = byhand.classification()
    wanted = byhand.trainable(task.original)
    g = byhand.gradient(wanted, lambda m: nll(m, task.retain) - 0.05 * nll(m, task.forget))
    memory = byhand.gradient(wanted, lambda m: -nll(m, task.forget))
    product = sum(float((g[key] * memory[key]).sum()) for key in g)
    assert product < 0, "no conflict: the projection would not be seen"
    size = sum(float((m**2).sum()) for m in memory.values())
    v = max(margin, -product / (size + 1e-3))
    for name, p in wanted.named_parameters():
        p.data.sub_(byhand.LR * (g[name] + v * memory[name]))
    found = byhand.run("scissorhands", task, share=0.0, margin=margin)
    byhand.assert_same(task, found, wanted, atol=1e-5)


def test_without_trimming_and_memories_it_is_fine_tuning() -> None:
    options = {"lr": 1e-2, "epochs": 2.0, "batch_size": 16, "optimiser": "sgd", "weight_decay": 0.0}
    plain = run("finetune", classification(), **options)
    same = run("scissorhands", classification(), share=0.0, lamb=0.0, memories=0, **options)
    assert state_fingerprint(same.model) == state_fingerprint(plain.model)


def test_a_class_goes_that_fine_tuning_leaves() -> None:
    """As a user runs it, on the tiny problem: its accuracy on the class falls, that on retained points does not."""
    task = classification()
    unlearned = as_users("scissorhands", task, share=0.1, lr=0.02, lamb=0.1).model
    tuned = as_users("finetune", task, lr=0.02).model

    def right(model: torch.nn.Module, split: byhand.Split) -> float:
        with torch.no_grad():
            return float((model(split.columns["x"]).argmax(1) == split.columns["y"]).float().mean())

    assert right(unlearned, task.forget) < 0.2 < right(tuned, task.forget)
    assert right(unlearned, task.retain) > right(task.original, task.retain) - 0.03
