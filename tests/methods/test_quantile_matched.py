"""Quantile matching: the target of each rank, its limit, and two halves of holdout that never meet."""

from __future__ import annotations

import math

import byhand
import numpy as np
import pytest
import torch
from byhand import nll
from running import run
from tiny import classification

from lethe.core.split import Split
from lethe.core.view import audited, reserved
from lethe.errors import NeedsUnmet
from lethe.methods.general.quantile_matched import matched


def test_golden_loss_goes_by_rank() -> None:
    # ranks ¼ and ¾ of (1, 2, 3, 4): 1 + ¼·3 = 1.75 and 1 + ¾·3 = 3.25; the larger loss gets the larger one
    found = matched(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]), 1e-9)
    torch.testing.assert_close(found, torch.tensor([math.log(3 / 3.25) ** 2, math.log(1 / 1.75) ** 2]))


def test_losses_that_are_the_quantiles_have_no_gradient() -> None:
    losses = torch.tensor([3.25, 1.75], requires_grad=True)
    matched(losses, torch.tensor([1.0, 2.0, 3.0, 4.0]), 1e-3).sum().backward()
    assert losses.grad is not None and losses.grad.abs().max() < 1e-6


def test_too_small_losses_rise_and_too_large_ones_fall() -> None:
    losses = torch.tensor([0.1, 9.0], requires_grad=True)
    matched(losses, torch.tensor([1.0, 2.0]), 1e-3).sum().backward()
    assert losses.grad is not None and losses.grad[0] < 0 < losses.grad[1]


def test_the_halves_are_disjoint_complete_and_follow_the_records() -> None:
    holdout = classification().holdout
    one, other = set(reserved(holdout).ids), set(audited(holdout).ids)
    assert not one & other and one | other == set(holdout.ids)
    assert min(len(one), len(other)) > 0.3 * len(holdout)
    turned = holdout.subset(np.arange(len(holdout))[::-1].copy(), "holdout")
    assert set(reserved(turned).ids) == one


def test_only_the_reference_half_is_read() -> None:
    task = classification()
    x = task.holdout.columns["x"].clone()
    spoiled = np.isin(task.holdout.ids, audited(task.holdout).ids)
    x[torch.from_numpy(spoiled)] += 5.0
    other = task.replaced(task.original, holdout=Split({"x": x, "y": task.holdout.columns["y"]}, "holdout", task.holdout.ids))
    one, two = (run("quantile_matched", t, epochs=2).model for t in (task, other))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_the_forget_losses_approach_the_reference() -> None:
    task = classification()
    outcome = run("quantile_matched", task, lr=3e-3, epochs=30)
    half, batch = reserved(task.holdout), task.forget.batch(range(len(task.forget)))
    reference = task.nll(task.original, half.batch(range(len(half)))).sort().values
    before, after = (float(matched(task.nll(m, batch).detach(), reference, 1e-3).mean()) for m in (task.original, outcome.model))
    assert after < 0.5 * before


def test_a_holdout_without_reference_is_refused() -> None:
    task = classification()
    few = audited(task.holdout)
    with pytest.raises(NeedsUnmet, match="0 holdout"):
        run("quantile_matched", task.replaced(task.original, holdout=few))


def test_one_step_by_hand() -> None:
    """Six forgotten losses against the quantiles at 1/12, 3/12, … of the unseen half that a method gets."""
    task, epsilon = byhand.classification(), 0.01
    unseen = task.granted({"holdout"}).holdout
    with torch.no_grad():
        known = torch.nn.functional.cross_entropy(task.original(unseen.columns["x"]), unseen.columns["y"], reduction="none")
    targets = torch.tensor(np.quantile(known.numpy(), (np.arange(6) + 0.5) / 6), dtype=torch.float32)
    forget = task.forget.columns

    def objective(m: torch.nn.Module) -> torch.Tensor:
        losses = torch.nn.functional.cross_entropy(m(forget["x"]), forget["y"], reduction="none").sort().values
        return ((losses + epsilon).log() - (targets + epsilon).log()).square().mean() + 0.3 * nll(m, task.retain)

    found = byhand.run("quantile_matched", task, alpha=0.3, epsilon=epsilon)
    byhand.assert_same(task, found, byhand.steps(task, [objective]))
