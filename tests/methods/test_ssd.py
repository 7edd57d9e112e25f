"""SSD: golden numbers of the update, its limits, and what the two estimators can select."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint
from lethe.engine.guard import Guard
from lethe.methods.general.ssd import dampened


def test_golden_update() -> None:
    theta, forget = torch.tensor([2.0, 2.0, -4.0, 7.0]), torch.tensor([8.0, 8.0, 30.0, 0.0])
    train = torch.tensor([1.0, 0.5, 1.0, 0.0])
    # α = 10: 8 > 10 no; 8 > 5 yes, β = 2·0.5/8 = 1/8; 30 > 10 yes, β = 2·1/30 = 1/15; 0 > 0 no
    torch.testing.assert_close(dampened(theta, forget, train, 10, 2.0), torch.tensor([2.0, 0.25, -4 / 15, 7.0]))


def test_never_enlarges_a_weight() -> None:
    one = torch.ones(1)
    assert dampened(one, 20 * one, one, 10, 100.0) == 1   # λ·I^D/I^F = 5 is cut to 1


@given(st.floats(0.01, 100), st.floats(0, 5), st.integers(0, 99))
def test_shrinks_or_keeps_bit_for_bit(alpha: float, dampening: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    theta, forget, train = torch.randn(50, generator=rng), *torch.rand(2, 50, generator=rng)
    result = dampened(theta, forget, train, alpha, dampening)
    outside = ~(forget > alpha * train)
    assert torch.equal(result[outside], theta[outside])
    assert (result.abs() <= theta.abs()).all()


def test_a_high_threshold_changes_nothing_and_says_so() -> None:
    task = classification()
    outcome = run("ssd", task, alpha=1e9)
    assert state_fingerprint(outcome.model) == state_fingerprint(task.original)
    assert "no weight was selected" in outcome.notes[0]


def test_sample_importance_selects_nothing_beyond_the_share_of_the_forget_set() -> None:
    """I^D is a mean over F and R, so I^D ≥ (|F|/|D|)·I^F: with a quarter forgotten, α ≥ 4 selects nothing."""
    task = classification()
    assert len(task.forget) * 3 == len(task.retain)
    assert run("ssd", task, importance="sample", alpha=4.001).notes
    assert not run("ssd", task, importance="sample", alpha=2.0).notes


def test_the_guard_takes_back_what_ruins_the_model() -> None:
    task = classification()
    outcome = run("ssd", task, guard=Guard(), alpha=0.01, dampening=0.0)
    assert state_fingerprint(outcome.model) == state_fingerprint(task.original)
