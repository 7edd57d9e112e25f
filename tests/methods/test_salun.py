"""SalUn: the mask is that of a full sort, and what lies outside stays bit for bit whatever the optimiser wants."""

from __future__ import annotations

import torch
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint

HARSH = {"lr": 0.1, "weight_decay": 0.1, "epochs": 5}   # momentum 0.9 and weight decay pull at every weight


def test_masked_weights_stay_bit_identical_and_the_mask_is_that_of_a_full_sort() -> None:
    task = classification()
    outcome = run("salun", task, density=0.3, **HARSH)
    model = task.copy_of_original()
    task.nll(model, task.forget.batch(range(len(task.forget)))).sum().backward()
    scores = torch.cat([p.grad.abs().flatten() for p in model.parameters() if p.grad is not None])
    moved = torch.cat([(outcome.model.get_parameter(n) != p).flatten() for n, p in model.named_parameters()])
    expected = torch.zeros_like(moved)
    expected[scores.argsort(descending=True)[: round(0.3 * len(scores))]] = True
    assert torch.equal(moved, expected)


def test_density_one_is_random_label() -> None:
    task = classification()
    whole, plain = run("salun", task, density=1.0), run("random_label", task)
    assert state_fingerprint(whole.model) == state_fingerprint(plain.model)


def test_density_zero_changes_nothing() -> None:
    task = classification()
    assert state_fingerprint(run("salun", task, density=0.0, **HARSH).model) == state_fingerprint(task.original)
