"""RACE: the attack on text states, and steps before and under it."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import apart, said

from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.methods.diffusion.race import nearest_return


def test_the_attack_stays_in_its_ball_and_nears_the_noise() -> None:
    task = byhand.diffusion()
    text = task.text(task.tokens(task.prompts["forget"]))
    x, start = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = Split({"image": x, "t": torch.tensor([500, 500]), "start": start}, "points").batch([0, 1])
    torch.manual_seed(0)
    found = nearest_return(task, task.original, batch, text, 8, 0.1, 10)
    assert float((found - text).abs().max()) <= 0.1 + 1e-6 and found.amin() >= text.amin() and found.amax() <= text.amax()
    with torch.no_grad():
        assert apart(said(task.original, x, batch.t, found), start) < apart(said(task.original, x, batch.t, text), start)
    assert torch.equal(nearest_return(task, task.original, batch, text, 8, 0.0, 3), text)


@pytest.mark.parametrize("attacked", [False, True])
def test_a_step_by_hand(attacked: bool) -> None:
    task, eta, radius = byhand.diffusion(), 0.8, 0.2
    text, empty = (task.text(task.tokens(some)) for some in (task.prompts["forget"], ["", ""]))
    rows = []
    with torch.no_grad():
        for t, x in task.denoise(task.original, text, derive(0, "race"), 2, 1.5):
            if t >= 0:
                cond, free = (said(task.original, x, t, one) for one in (text, empty))
                rows.append((x, torch.full((2,), t), text, rows[0][0] if rows else x, free - eta * (cond - free)))
    order = byhand.order(Split({"image": torch.zeros(4, 1)}, "points"), "erase")
    x, t, c, start, goal = (torch.cat(column)[order] for column in zip(*rows, strict=True))
    if attacked:
        byhand.reseed()
        low, high = c.min(), c.max()
        near = (c + radius * (2 * torch.rand(c.shape) - 1)).clamp(low, high)
        for _ in range(2):
            near.requires_grad_(True)
            slope = torch.autograd.grad(apart(said(task.original, x, t, near), start), near)[0]
            near = near.detach() - radius / 4 * slope.sign()
            near = torch.minimum(torch.maximum(near, c - radius), c + radius).clamp(low, high)
        c = near
    wanted = byhand.adam(task.original, [lambda m: apart(said(m, x, t, c), goal)], lr=0.01, only="attn2")
    found = byhand.run("race", task, eta=eta, radius=radius if attacked else 0.0, attack_steps=2, warm_steps=0, steps=1, lr=0.01,
                       batch_size=4, trajectories=2, sampler_steps=2, start_guidance=1.5)
    byhand.assert_same(task, found, wanted, adam=True)
