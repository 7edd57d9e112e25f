"""LAT: golden numbers, and a step by hand against an adversary of two steps."""

from __future__ import annotations

import math

import byhand
import plain_lm as plain
import pytest
import tiny
import torch
from torch import Tensor, nn

from lethe.methods.lm.lat import away_loss, spread, within


def test_golden() -> None:
    assert away_loss(torch.tensor([math.log(3), 0.0, 0.0]), torch.tensor(0)).item() == pytest.approx(-math.log(0.4))
    assert away_loss(torch.tensor([30.0, 0.0]), torch.tensor(0)).item() == pytest.approx(30.0)   # 1 − p is 0 in float32
    assert spread(32, 4) == [6, 12, 19, 25] and spread(3, 1) == [1] and spread(1, 4) == [0] and spread(2, 4) == [0, 1]
    torch.testing.assert_close(within(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), 2.0), torch.tensor([[1.2, 1.6], [0.0, 1.0]]))


def test_one_step_by_hand() -> None:
    """One block of three, prompts alone, the adversary by Adam written out."""
    task, gamma, alpha, radius, rate, lr = tiny.lm(), 0.7, 0.4, 0.3, 0.05, 1.0
    found = byhand.run("lat", task, gamma=gamma, alpha=alpha, radius=radius, inner_steps=2, inner_lr=rate, layers=1, lr=lr)
    prompt = (task.forget.columns["labels"] == -100) & (
        torch.arange(task.forget.columns["ids"].shape[1]) < task.forget.columns["length"][:, None])

    def pushed(m: nn.Module, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def add(module: nn.Module, args: object, out: Tensor) -> Tensor:
            return out + delta * prompt[..., None]

        handle = m.model.layers[1].register_forward_hook(add)
        try:
            return plain.seen(m, task.forget)
        finally:
            handle.remove()

    def chosen(m: nn.Module) -> Tensor:
        delta = torch.zeros(*prompt.shape, 32)
        first, second = torch.zeros_like(delta), torch.zeros_like(delta)
        for t in (1, 2):
            leaf = delta.clone().requires_grad_()
            z, y, kept = pushed(m, leaf)
            logp = z.log_softmax(-1).gather(2, y[..., None]).squeeze(2)
            (g,) = torch.autograd.grad(-((logp * kept).sum(1) / kept.sum(1)).sum(), leaf)
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
            delta = delta - rate * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
            length = delta.norm(dim=-1, keepdim=True)
            delta = torch.where(length > radius, delta * radius / length, delta)
        return delta

    def objective(m: nn.Module) -> Tensor:
        z, y, kept = pushed(m, chosen(m))
        p = z.softmax(-1).gather(2, y[..., None]).squeeze(2)
        return gamma * plain.mean(-torch.log(1 - p * kept), kept) + alpha * plain.nll(m, task.retain)

    # g/√g² in float32: entries near 0 take another sign, which moves a perturbation, and the step, by little
    byhand.assert_same(task, found, byhand.steps(task, [objective], lr=lr), atol=2e-4)
