"""CF-k: the last blocks move and nothing else; with all blocks it is fine-tuning."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import nll
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint
from lethe.errors import OutOfRange


def test_the_first_step_moves_the_head_by_its_gradient_and_nothing_else() -> None:
    task = classification()
    model = task.copy_of_original()
    task.nll(model, task.retain.batch(range(len(task.retain)))).mean().backward()
    moved = run("cf_k", task, k=1, lr=0.5, epochs=1, batch_size=len(task.retain), weight_decay=0.0).model
    for name, p in model.named_parameters():
        assert p.grad is not None
        if name.startswith("head."):
            torch.testing.assert_close(moved.get_parameter(name), p - 0.5 * p.grad)
        else:
            assert torch.equal(moved.get_parameter(name), p)


def test_all_blocks_is_finetune() -> None:
    task = classification()
    same = {"lr": 1e-2, "epochs": 2}
    assert state_fingerprint(run("cf_k", task, k=2, **same).model) == state_fingerprint(run("finetune", task, **same).model)


def test_more_blocks_than_there_are_is_refused() -> None:
    with pytest.raises(OutOfRange, match="2 blocks"):
        run("cf_k", classification(), k=3)


def test_one_step_by_hand() -> None:
    task = byhand.classification()
    wanted = byhand.steps(task, [lambda m: nll(m, task.retain)])
    wanted.body.load_state_dict(task.original.body.state_dict())   # the last block is the head
    byhand.assert_same(task, byhand.run("cf_k", task, k=1), wanted)
