"""Opt-Out: the distance of two clouds, its limits, and two steps by hand."""

from __future__ import annotations

import byhand
import plain_lm as plain
import pytest
import tiny
import torch
from torch import nn

from lethe.methods.lm.opt_out import sliced_wasserstein


def test_golden_and_limits() -> None:
    one = torch.ones(1, 1)
    assert sliced_wasserstein(torch.tensor([[3.0], [1.0]]), torch.tensor([[0.0], [2.0]]), one).item() == 2.0
    rng = torch.Generator().manual_seed(0)
    rows, u, v = torch.randn(6, 4, generator=rng), torch.randn(1, 4, generator=rng), torch.randn(1, 4, generator=rng)
    r = torch.randn(4, 20_000, generator=rng)
    r = r / r.norm(dim=0)
    assert sliced_wasserstein(rows, rows[[3, 0, 5, 1, 4, 2]], r).item() == pytest.approx(0, abs=1e-10)
    assert sliced_wasserstein(u, v, r).item() == pytest.approx(float((u - v).square().sum() / 4), rel=0.03)


def test_two_steps_by_hand() -> None:
    """Two: at the first the distance is 0 and flat."""
    task, lr, beta, alpha, weight, count = tiny.lm(), 0.05, 0.5, 0.4, 0.3, 5
    found = byhand.run("opt_out", task, beta=beta, alpha=alpha, transport=weight, directions=count, lr=lr, epochs=2)
    with torch.no_grad():
        old = plain.sums(task.original.eval(), task.forget)

    def objective(step: int) -> byhand.Objective:
        def total(m: nn.Module) -> torch.Tensor:
            byhand.reseed(step)
            apart = torch.zeros(())
            for p, q in zip(m.parameters(), task.original.parameters(), strict=True):
                rows, others = (t if t.dim() == 2 else t[None] for t in (p, q.detach()))
                r = torch.randn(rows.shape[1], count)
                for direction in (r / r.pow(2).sum(0).sqrt()).T:
                    apart = apart + ((rows @ direction).sort()[0] - (others @ direction).sort()[0]).pow(2).sum() / count
            npo = (2 / beta * torch.log1p((beta * (plain.sums(m, task.forget) - old)).exp())).mean()
            return npo + alpha * plain.nll(m, task.retain) + weight * apart

        return total

    byhand.assert_same(task, found, byhand.steps(task, [objective(0), objective(1)], lr=lr), atol=1e-5)
