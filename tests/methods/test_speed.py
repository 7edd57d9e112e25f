"""SPEED: the constrained least squares, the null space, and which retained states span its complement."""

from __future__ import annotations

import byhand
import pytest
import torch
from test_uce import states
from torch import Tensor

from lethe.core.seeds import generator
from lethe.maths.unlearnable import k_means
from lethe.methods.diffusion.speed import above, least, null_space, speed_edit


def test_golden_numbers() -> None:
    c, anchor = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
    found = speed_edit(anchor.T @ c, c.T @ c, torch.eye(2).double(), c[:0], 1.0, 0.0)
    assert torch.allclose(found, torch.tensor([[-0.5, 0.0], [0.5, 0.0]]).double())
    assert null_space(torch.diag(torch.tensor([2.0, 0.02])), 0.1).abs().tolist() == [[0.0], [1.0]]
    assert torch.allclose(least(torch.diag(torch.tensor([3.0, 1.0, 2.0]))).abs(), torch.tensor([0.0, 1.0, 0.0]))
    assert torch.allclose(least(torch.tensor([[0.0, 3.0, 0.0], [4.0, 0.0, 0.0]])).abs(), torch.tensor([0.0, 1.0, 0.0]))
    assert above(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [5.0]])).tolist() == [[3.0]]


@pytest.mark.parametrize("lamb", [0.0, 0.3])
def test_it_is_the_published_formula(lamb: float) -> None:
    """ΔP = W (C_* − C)Cᵀ P (I − M C_0 (C_0ᵀ P M C_0 + λI)⁻¹ C_0ᵀ P) M,  M = (CCᵀP + rI)⁻¹, which is not symmetric."""
    c, anchor, held, r = states(0, 2), states(1, 2), states(2, 2), 0.7
    u = null_space(states(4, 3).T @ states(4, 3), 1e-6)
    p, one = u @ u.T, torch.eye(8).double()
    m = torch.linalg.inv(c.T @ c @ p + r * one)
    inner = torch.linalg.inv(held @ p @ m @ held.T + lamb * torch.eye(2))
    wanted = (anchor - c).T @ c @ p @ (one - m @ held.T @ inner @ held @ p) @ m
    assert u.shape == (8, 5) and torch.allclose(speed_edit(anchor.T @ c, c.T @ c, u, held, r, lamb), wanted, atol=1e-10)


def solved(w: Tensor, c: Tensor, anchor: Tensor, u: Tensor, held: Tensor, r: float) -> Tensor:
    """ΔP = YUᵀ from the conditions for a minimum under the constraint, as one linear system."""
    n, b = len(c), u.T @ held.T
    above = torch.cat([u.T @ c.T @ c @ u / n + r * torch.eye(u.shape[1], dtype=u.dtype), b], 1)
    below = torch.cat([b.T, torch.zeros(len(held), len(held)).double()], 1)
    right = torch.cat([u.T @ c.T @ (anchor - c) @ w.T / n, torch.zeros(len(held), len(w)).double()])
    return torch.linalg.solve(torch.cat([above, below]), right)[: u.shape[1]].T @ u.T


def test_the_edit_by_hand() -> None:
    task, r = byhand.diffusion(), 0.4
    text = task.text(task.tokens([*task.prompts["forget"], "a square", "", *task.prompts["keep"]])).double()
    c, anchor, empty, kept = text[:2, 3], text[2, 2].expand(2, -1), text[3], text[4:, 3]
    held = torch.cat([empty[:1], k_means(empty[1:], 3, generator(0, "speed", "centres"))])
    wanted, exact = byhand.trainable(task.original), {}
    for name, p in wanted.named_parameters():
        if name.endswith("attn2.to_v.weight"):
            w = p.detach().double()
            moved = w @ (anchor - c).T @ c / 2 @ torch.linalg.inv(torch.eye(64) + c.T @ c / 2)

            def far(some: Tensor, moved: Tensor = moved) -> Tensor:
                size = (some @ moved.T).square().sum(1).sqrt()
                return some[size > size.mean()]

            some = far(kept)
            right = torch.linalg.svd(w, full_matrices=False)[2][-1]   # known up to its sign
            rng = generator(0, "speed", name)
            noise = torch.randn(2, len(some), generator=rng, dtype=torch.float64).view(-1, 1)
            copies = torch.cat([some, some]) + noise * right * torch.sign(right @ least(w))
            some = torch.cat([some, far(copies)])
            values, vectors = torch.linalg.eigh(some.T @ some / len(some))
            exact[name] = w + solved(w, c, anchor, vectors[:, values < 0.05], held, r)
            p.data = exact[name].float()
    found = byhand.run("speed", task, guide="a square", threshold=0.05, retain_scale=r, augment=2)
    for name, w in exact.items():
        assert float((found.get_parameter(name).detach() - w).abs().max()) < 1e-7 * float(w.abs().max()), name
    byhand.assert_same(task, found, wanted)


def test_what_is_kept_is_read_as_before() -> None:
    """The states that span the complement of the null space, and the start token, which all prompts share."""
    task = byhand.diffusion()
    kept = task.text(task.tokens(task.prompts["keep"]))[:, 3]
    start = task.text(task.tokens([""]))[:, 0]
    erased = task.text(task.tokens(task.prompts["forget"]))[:, 3]
    found = byhand.run("speed", task, retain_scale=0.05, threshold=1e-6, augment=0)
    for name, p in task.original.named_parameters():
        now = found.get_parameter(name)
        if not name.endswith("attn2.to_v.weight"):
            assert torch.equal(now, p), name
            continue
        change = (now - p).detach().T
        held, moved = torch.cat([kept, start]) @ change, erased @ change
        assert float(held.abs().max()) < 1e-5 and float(moved.abs().max()) > 0.05, name
    for options in ({"threshold": 0.0}, {"retain_scale": 1e12}):   # no null space; nothing is worth its price
        same = byhand.run("speed", task, **options)
        assert all(torch.allclose(same.get_parameter(n), p, atol=1e-6) for n, p in task.original.named_parameters())
