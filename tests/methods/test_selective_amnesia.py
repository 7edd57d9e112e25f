"""Selective Amnesia: surrogates for the concept's prompts, and a penalty by the Fisher information of what is retained."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import apart, said

from lethe.core.seeds import derive, generator
from lethe.core.split import Split
from lethe.methods.diffusion.selective_amnesia import ewc


def test_golden_penalty() -> None:
    one = {name: {"w": torch.tensor([value])} for name, value in (("now", 3.0), ("before", 1.0), ("fisher", 5.0))}
    assert float(ewc(one["now"], one["before"], one["fisher"], 2.0)) == 20.0


@pytest.mark.parametrize("surrogate", ["noise", "anchor"])
def test_two_steps_by_hand(surrogate: str) -> None:
    task, lamb, gamma = byhand.diffusion(), 300.0, 0.5
    prompts = [task.prompts["forget"][i % 2] for i in range(3)]
    text, kept_text = task.text(task.tokens(prompts)), task.text(task.retain.columns["tokens"])
    if surrogate == "noise":
        image = torch.rand((3, 3, 8, 8), generator=generator(0, "surrogate")) * 2 - 1
    else:
        other = task.text(task.tokens([prompt.replace("disk", "square") for prompt in prompts]))
        image = task.draw_from(task.original, other, derive(0, "surrogate"))
    pictures = Split({"image": image}, "pictures")

    twin = byhand.trainable(task.original)
    fisher = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    for look in range(2):
        rng = generator(0, "fisher", look, 0)
        t = torch.randint(0, 1000, (4,), generator=rng)
        noise = torch.randn((4, 3, 8, 8), generator=rng)
        level = task.alphas_cumprod[t].view(-1, 1, 1, 1)
        x = level.sqrt() * task.retain.columns["image"][:4] + (1 - level).sqrt() * noise
        for one in zip(x.split(1), t.split(1), kept_text[:4].split(1), noise.split(1), strict=True):
            for name, g in byhand.gradient(twin, lambda m, one=one: apart(said(m, *one[:3]), one[3])).items():
                fisher[name] += g * g / 8

    def objective(step: int) -> byhand.Objective:
        rows, x, t, noise = byhand.noised(task, pictures, "surrogate", step)
        kept, y, s, other = byhand.noised(task, task.retain, "retain", step)

        def loss(m: byhand.Any) -> torch.Tensor:
            was = dict(task.original.named_parameters())
            drift = sum((fisher[name] * (p - was[name].detach()) ** 2).sum() for name, p in m.named_parameters())
            return (apart(said(m, x, t, text[rows]), noise) + gamma * apart(said(m, y, s, kept_text[kept]), other)
                    + lamb / 2 * drift)
        return loss

    wanted = byhand.adam(task.original, [objective(0), objective(1)], lr=0.001)
    found = byhand.run("selective_amnesia", task, surrogate=surrogate, anchor="square", images=3, examples=4, looks=2, lamb=lamb,
                       gamma=gamma, steps=2, lr=0.001, batch_size=100)
    byhand.assert_same(task, found, wanted, atol=2e-5)
