"""NegGrad+: one step of the weighted difference, and its limit."""

from __future__ import annotations

import byhand
import torch
from byhand import nll
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint


def test_one_step_descends_on_retain_and_ascends_on_forget() -> None:
    task = classification()
    model = task.copy_of_original()
    forget, retain = (task.nll(model, s.batch(range(len(s)))).mean() for s in (task.forget, task.retain))
    (0.7 * retain - 0.3 * forget).backward()
    outcome = run("neggrad_plus", task, beta=0.7, lr=0.2, weight_decay=0.0, clip=None, batch_size=1000, epochs=1)
    for name, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(outcome.model.get_parameter(name), p - 0.2 * p.grad)


def test_beta_one_is_finetune() -> None:
    task = classification()
    whole = run("neggrad_plus", task, beta=1.0, lr=1e-2, clip=None, epochs=2)
    assert state_fingerprint(whole.model) == state_fingerprint(run("finetune", task, lr=1e-2, epochs=2).model)


def test_one_step_by_hand() -> None:
    task = byhand.classification()
    wanted = byhand.steps(task, [lambda m: 0.7 * nll(m, task.retain) - 0.3 * nll(m, task.forget)])
    byhand.assert_same(task, byhand.run("neggrad_plus", task, beta=0.7), wanted)
