"""ResAlign: the implicit gradient by arithmetic and against a solved system, and a step with a user by hand."""

from __future__ import annotations

from typing import Any

import byhand
import pytest
import torch
from byhand import apart, said
from torch import Tensor

from lethe.methods.diffusion.resalign import curved, implicit


def test_golden_numbers() -> None:
    def product(v: list[Tensor]) -> list[Tensor]:
        return [3 * x for x in v]

    g = [torch.tensor([2.0])]
    assert [float(implicit(g, product, k)[0]) for k in (1, 2, 5)] == [2.0, 0.5, 0.5]
    flat = implicit(g, lambda v: [0 * x for x in v], 3)
    assert float(flat[0]) == 2.0        # s = 1, and every further term is 0


def test_many_terms_solve_the_system() -> None:
    rng = torch.Generator().manual_seed(0)
    half, g = torch.randn(4, 4, generator=rng), torch.randn(4, generator=rng)
    h = half @ half.T
    found = implicit([g], lambda v: [h @ v[0]], 400)[0]
    assert torch.allclose(found, torch.linalg.solve(torch.eye(4) + h, g), atol=1e-4)


def test_a_product_with_the_curvature_leaves_the_weights() -> None:
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    a = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    found = curved([w], [torch.tensor([1.0, 1.0])], lambda: [a @ w.detach()])   # of ½ wᵀ a w
    assert torch.allclose(found[0], torch.tensor([3.0, 4.0]), atol=1e-3) and w.tolist() == [1, -2]


@pytest.mark.parametrize("loss", ["ascent", "esd"])
def test_a_step_by_hand(loss: str) -> None:
    """Two steps of a user, the gradient there, back, and Adam's first step; one term: the gradient there counts as here."""
    task, lamb, mu, eta = byhand.diffusion(), 0.6, 0.8, 0.5
    empty = task.text(task.tokens([""]))

    def at(name: str, split: Any) -> tuple[Tensor, ...]:
        rows, x, t, noise = byhand.noised(task, split, name)
        return x, t, noise, task.text(split.columns["tokens"][rows])

    f, r = at("forget", task.forget), at("retain", task.retain)
    users = [at(f"user {k}", task.retain) for k in range(2)]
    with torch.no_grad():
        kept = said(task.original, r[0], r[1], r[3])
        free, cond = (said(task.original, f[0], f[1], text) for text in (empty.expand(len(f[0]), -1, -1), f[3]))

    def away(m: Any) -> Tensor:
        now = said(m, f[0], f[1], f[3])
        return -apart(now, f[2]) if loss == "ascent" else apart(now, free - eta * (cond - free))

    start = byhand.trainable(task.original)
    user = byhand.trainable(task.original)
    stepper = torch.optim.Adam(user.parameters(), lr=0.002, foreach=False)
    for x, t, noise, text in users:
        stepper.zero_grad()
        apart(said(user, x, t, text), noise).backward()
        stepper.step()
    here = byhand.gradient(start, lambda m: (1 - lamb) * away(m) + mu * apart(said(m, r[0], r[1], r[3]), kept))
    there = byhand.gradient(user, away)
    taken = torch.optim.Adam(start.parameters(), lr=0.01, foreach=False)
    for name, p in start.named_parameters():
        p.grad = here[name] + lamb * there[name]
    taken.step()
    found = byhand.run("resalign", task, loss=loss, eta=eta, lamb=lamb, mu=mu, users=(2,), rates=(0.002,), terms=1, lr=0.01,
                       steps=1, batch_size=100)
    byhand.assert_same(task, found, start, adam=True)
