"""Fine-tuning is plain SGD on the retain set."""

from __future__ import annotations

import byhand
import torch
from byhand import nll
from running import run
from tiny import classification


def test_one_step_is_sgd_with_weight_decay() -> None:
    task = classification()
    model = task.copy_of_original()
    task.nll(model, task.retain.batch(range(len(task.retain)))).mean().backward()
    outcome = run("finetune", task, batch_size=len(task.retain), epochs=1, lr=0.5, weight_decay=0.1)
    for name, p in model.named_parameters():
        assert p.grad is not None
        expected = p - 0.5 * (p.grad + 0.1 * p)   # the first momentum buffer is the gradient itself
        torch.testing.assert_close(outcome.model.get_parameter(name), expected)


def test_one_step_by_hand() -> None:
    task = byhand.classification()
    byhand.assert_same(task, byhand.run("finetune", task), byhand.steps(task, [lambda m: nll(m, task.retain)]))
