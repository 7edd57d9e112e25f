"""ℓ1-sparse: the penalty fades, reaches what it should, and vanishes with α."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import nll
from running import run
from tiny import classification
from torch import nn

from lethe.core.modules import state_fingerprint
from lethe.methods.general.l1_sparse import penalised, strength

SAME = {"lr": 1e-2, "epochs": 2}


def test_strength_falls_linearly_and_stops_before_the_plain_epochs() -> None:
    # 10 epochs, the last 2 plain: T = 8; half the run is epoch 5, so 1 − 5/8 of α is left
    assert strength(0.0, 0.4, 10, 2) == 0.4
    assert strength(0.5, 0.4, 10, 2) == pytest.approx(0.4 * 3 / 8)
    assert strength(0.8, 0.4, 10, 2) == pytest.approx(0.0)
    assert strength(0.9, 0.4, 10, 2) == 0.0
    assert strength(0.0, 0.4, 2, 2) == 0.0


def test_norm_layers_and_biases_can_be_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.LayerNorm(2))
    names = {name for name, _ in model.named_parameters()}
    assert set(penalised(model, names, ())) == names
    assert set(penalised(model, names, ("norm",))) == {"0.weight", "0.bias"}
    assert set(penalised(model, names, ("norm", "bias"))) == {"0.weight"}
    assert penalised(model, {"0.bias"}, ()) == ["0.bias"]   # what does not move is not penalised


def test_the_first_step_adds_the_sign_of_the_weights() -> None:
    task = classification()
    model = task.copy_of_original()
    task.nll(model, task.retain.batch(range(len(task.retain)))).mean().backward()
    outcome = run("l1_sparse", task, alpha=0.2, batch_size=len(task.retain), epochs=1, lr=0.5, weight_decay=0.0)
    for name, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(outcome.model.get_parameter(name), p - 0.5 * (p.grad + 0.2 * p.sign()))


def test_without_penalty_it_is_finetune() -> None:
    task = classification()
    bare, plain = run("l1_sparse", task, alpha=0.0, **SAME), run("finetune", task, **SAME)
    assert state_fingerprint(bare.model) == state_fingerprint(plain.model)


def test_two_steps_by_hand() -> None:
    task, alpha = byhand.classification(), 0.05

    def size(m: torch.nn.Module) -> torch.Tensor:
        return torch.stack([p.abs().sum() for p in m.parameters()]).sum()

    wanted = byhand.steps(task, [lambda m: nll(m, task.retain) + alpha * size(m),
                                 lambda m: nll(m, task.retain) + alpha / 2 * size(m)])   # half of the run is done
    byhand.assert_same(task, byhand.run("l1_sparse", task, alpha=alpha, epochs=2), wanted)
