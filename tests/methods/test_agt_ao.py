"""AGT-AO: golden numbers, and steps by hand through an open gate with a conflict."""

from __future__ import annotations

import byhand
import plain_lm as plain
import pytest
import tiny
import torch
from torch import Tensor, nn

from lethe.methods.lm.agt_ao import default_layer, less_conflict


def test_golden() -> None:
    own, others = [torch.tensor([-2.0, 3.0])], [torch.tensor([1.0, 0.0])]
    torch.testing.assert_close(less_conflict(own, others, 1.0)[0], torch.tensor([0.5547, 3.0]), atol=1e-4, rtol=0)
    assert less_conflict(own, others, 0.0)[0].tolist() == [1.0, 3.0]   # PCGrad: orthogonal to (1, 0), and that added
    assert less_conflict([-own[0]], others, 1.0)[0].tolist() == [3.0, -3.0]   # no conflict: their sum
    assert [default_layer(n) for n in (32, 12, 3, 1)] == [9, 3, 0, 0]


@pytest.mark.parametrize("gate", [100.0, 0.0])
def test_three_steps_by_hand(gate: float) -> None:
    """No attack in the first step, whose norm is the gate's measure; then one in each, unless the gate stays shut."""
    task, beta, alpha, lr, radius, share = tiny.lm(), 0.3, 2.0, 0.02, 0.5, 0.4
    found = byhand.run("agt_ao", task, beta=beta, alpha=alpha, lr=lr, radius=radius, inner_steps=2, inner_lr=share, warmup=0.0,
                       gate=gate, gamma=2.0, layer=1, epochs=3)

    def sums(m: nn.Module, delta: Tensor) -> Tensor:
        handle = m.model.layers[1].register_forward_hook(lambda _, __, out: out + delta)
        try:
            return plain.sums(m, task.forget)
        finally:
            handle.remove()

    original = byhand.trainable(task.original).eval().requires_grad_(False)

    def pushed(m: nn.Module, delta: Tensor) -> Tensor:
        ratio = sums(m, delta) - sums(original, delta)
        return 2 / beta * torch.log(1 + torch.exp(beta * ratio)).mean()

    model = byhand.trainable(task.original)
    velocity = {key: torch.zeros_like(p) for key, p in model.named_parameters()}
    for step in range(3):
        delta = torch.zeros(*task.forget.columns["ids"].shape, 32)
        for _ in range(2 if step and gate else 0):
            leaf = delta.clone().requires_grad_()
            (g,) = torch.autograd.grad(pushed(model, leaf), leaf)
            delta = torch.clamp(delta + share * radius * g.sign(), -radius, radius)
        own = byhand.gradient(model, lambda m, delta=delta: pushed(m, delta))
        other = byhand.gradient(model, lambda m: alpha * plain.nll(m, task.retain))
        product, first, second = (sum(float((a[k].double() * b[k].double()).sum()) for k in own)
                                  for a, b in ((own, other), (own, own), (other, other)))
        taken = ((1 - product / (first * second) ** 0.5) / 2) ** 2 * product / second if product < 0 else 0.0
        with torch.no_grad():
            for key, p in model.named_parameters():
                velocity[key] = 0.9 * velocity[key] + own[key] - taken * other[key] + other[key]
                p.sub_(lr * velocity[key])
    # the sign of a gradient near 0 may differ by rounding, which moves an entry of δ
    byhand.assert_same(task, found, model, atol=3e-4 if gate else 1e-5)
