"""TRCE: which tokens the closed form aligns, and both stages by hand."""

from __future__ import annotations

import byhand
import torch
from byhand import apart, said

from lethe.core.families.diffusion import Words
from lethe.core.seeds import derive
from lethe.methods.diffusion.trce import contrast, tokens_of


def test_golden_contrast() -> None:
    two, none, three = (torch.tensor([[value]]) for value in (2.0, 0.0, 3.0))
    assert contrast(two, none, three, 1.0).tolist() == [4.0]
    assert contrast(two, three, none, 1.0).tolist() == [0.0]   # near enough already


def test_four_tokens_and_their_weights() -> None:
    """Start, first end, last, last word, which goes to the last; of six tokens with the first end at 3 two are padding."""
    states = torch.arange(12.0).view(2, 6, 1)
    old, new = Words(states[:1], torch.tensor([3])), Words(states[1:], torch.tensor([2]))
    k, g, weight = tokens_of([old], [new], (1.0, 2.0, 3.0, 4.0))
    assert k.flatten().tolist() == [0, 3, 5, 2] and g.flatten().tolist() == [6, 8, 11, 11] and weight.tolist() == [1, 2, 6, 4]


def closed(task: byhand.Diffusion, mu: float, lamb: float) -> byhand.Any:
    """Stage 1 by its formula, layer by layer: the first end of "a red disk" and "a red" stands at 4 and 3."""
    model = byhand.trainable(task.original)
    k = task.text(task.tokens(task.prompts["forget"]))[:, 4].double()
    g = task.text(task.tokens(["a red square", "a green square"]))[:, 4].double()
    c = task.text(task.tokens(["", *task.prompts["keep"]])).flatten(0, 1).double()
    base = mu * c.T @ c / len(c) + lamb * torch.eye(64).double()
    for name, p in model.named_parameters():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            w = p.detach().double()
            p.data = ((w @ (g.T @ k / 2 + base)) @ torch.linalg.inv(k.T @ k / 2 + base)).float()
    return model


def test_both_stages_by_hand() -> None:
    task, s, m0, hold = byhand.diffusion(), 2.0, 0.5, 0.7
    first = closed(task, 0.02, 0.01)
    prompts, twins = task.prompts["forget"], ["a red square", "a green square"]
    text, twin, empty = (task.text(task.tokens(some)) for some in (prompts, twins, ["", ""]))
    seed = derive(0, "trce")
    with torch.no_grad():
        early = list(task.denoise(task.original, text, seed, 4, 1.5))[:2]           # the first half of four steps
        free = [(t, x) for t, x in task.denoise(task.original, empty, derive(seed, "free"), 4, 1.5) if t >= 0]
        goals = []
        for t, x in early:
            base = said(task.original, x, t, empty)
            goals.append([one + s * (one - base) for one in (said(task.original, x, t, some) for some in (twin, text))])
        before = [said(first, y, r, empty) for r, y in free]

    def hinge(value: torch.Tensor, goal: list[torch.Tensor]) -> torch.Tensor:
        near, far = (((value - one) ** 2).flatten(1).mean(1) for one in goal)
        return (near - far + m0).clamp(min=0).mean()

    def objective(m: byhand.Any) -> torch.Tensor:
        held = sum(apart(said(m, y, r, empty), old) for (r, y), old in zip(free, before, strict=True)) / 4
        total = torch.zeros(())
        for (t, x), goal in zip(early, goals, strict=True):
            total = total + (hinge(said(m, x, t, text), goal) + hinge(said(m, x, t, empty), goal)) / 4
        return total + hold * held

    found = byhand.run("trce", task, anchor="square", preserve=0.02, lamb=0.01, guidance=s, margin=m0, hold=hold,
                       lr=0.01, epochs=1, batch_size=4, trajectories=2, sampler_steps=4, start_guidance=1.5)
    wanted = byhand.trainable(first)
    slope = byhand.gradient(wanted, objective)
    for name, p in wanted.named_parameters():
        if "attn1" in name or "attn2.to_q" in name:
            g, now = slope[name], found.get_parameter(name).detach()
            step = p.data * (1 - 0.01 * 0.01) - 0.01 * g / (g.abs() + 1e-8)
            p.data = torch.where(g.abs() < 1e-3 * g.abs().max(), now, step)   # rounding decides where the gradient is near 0
    byhand.assert_same(task, found, wanted, adam=True)
