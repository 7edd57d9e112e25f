"""SFD: the generator's loss by arithmetic and against its meaning, and a turn of both networks written out."""

from __future__ import annotations

import copy

import byhand
import pytest
import torch
from byhand import apart, said
from torch import Tensor

from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.methods.diffusion.sfd import SFD, averaged, distilled, prompts


def test_golden_numbers() -> None:
    """f_0 = 3, f_ψ = 1, x = 2: ω = 1, apart 2, off 1; α = 0: 2 · 1, ½: 2 · (1 − 1), 1: 2 · (1 − 2). Then ω = 2; two pixels."""
    three, one, two = (torch.tensor([[value]]) for value in (3.0, 1.0, 2.0))
    assert [float(distilled(three, one, two, alpha)) for alpha in (0.0, 0.5, 1.0)] == [2.0, 0.0, -2.0]
    assert float(distilled(three, one, one, 0.0)) == 2.0                                  # 2 · 2 / 2
    pixels = distilled(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 4.0]]), 0.0)
    assert float(pixels) == pytest.approx((2 * 1 + 0) / 2 / 2)                            # ω = (1 + 3)/2, mean of 2 and 0


def test_nothing_is_to_be_learnt_where_both_networks_agree() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    real = torch.randn(2, 3)
    distilled(real, real, x, 1.2).sum().backward()
    assert x.grad is not None and not x.grad.any()


def test_the_average_reaches_back_over_a_share_of_the_turns() -> None:
    """0.2 · 50000 = 10000 turns, 1 − 1/10000, as published; 0.5 · 4 = 2 turns, 1 − 1/2; 0.5 · 2 is one turn, the last point."""
    assert averaged(SFD()) == {"name": "ema", "decay": pytest.approx(0.9999)}
    assert averaged(SFD(horizon=0.5, steps=4)) == {"name": "ema", "decay": 0.5}
    assert averaged(SFD(horizon=0.5, steps=2)) == averaged(SFD(horizon=0.0)) == "last"


def test_prompts_stand_beside_what_takes_their_place() -> None:
    task = byhand.diffusion()
    split = prompts(SFD(anchor="square", batch_size=4), task)
    texts = {name: [text.strip() for text in task.pipeline.tokenizer.batch_decode(split.columns[name], skip_special_tokens=True)]
             for name in split.columns}
    assert len(split) == 6 and set(texts["concept"]) == set(task.prompts["forget"])
    assert [text.replace("disk", "square") for text in texts["concept"]] == texts["safe"]
    assert set(texts["keep"]) == set(task.prompts["keep"])


def test_nothing_to_keep_is_said_before_it_starts() -> None:
    task = byhand.diffusion()
    bare = copy.copy(task)
    bare.prompts = {**task.prompts, "keep": []}
    with pytest.raises(RequestError, match=r"data\.keep"):
        byhand.run("sfd", bare, steps=1)


def test_a_turn_by_hand() -> None:
    """Adam's first step of ψ on pictures of the generator, one of the generator against ψ, and one of ψ on its new pictures."""
    task, alpha, weight, lr, beta1 = byhand.diffusion(), 1.2, 0.5, 0.01, 0.3
    cfg = SFD(anchor="square", batch_size=6)
    split = prompts(cfg, task)

    def level(t: Tensor) -> Tensor:
        return task.alphas_cumprod[t].view(-1, 1, 1, 1)

    def f(m: byhand.Any, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return (x - (1 - level(t)).sqrt() * said(m, x, t, text)) / level(t).sqrt()

    def drawn(generator: byhand.Any, name: str, low: int, high: int, call: int = 0) -> tuple[Tensor, ...]:
        rows, rng = byhand.order(split, name, call=call), byhand.drawn(name, call=call)
        t = torch.randint(low, high, (2, 6), generator=rng).flatten()
        z, noise = (torch.randn(2, 6, 3, 8, 8, generator=rng).flatten(0, 1) for _ in range(2))
        kept = split.columns["keep"][rows]
        text, safe = (task.text(torch.cat([kept, split.columns[key][rows]])) for key in ("concept", "safe"))
        tau = torch.full((12,), 440)
        x = f(generator, (1 - level(tau)).sqrt() * z, tau, text)
        return x, level(t).sqrt() * x + (1 - level(t)).sqrt() * noise, t, noise, text, safe

    def learn(m: byhand.Any, generator: byhand.Any, call: int = 0) -> Tensor:
        _, x_t, t, noise, text, _ = drawn(generator, "fake", 0, 1000, call)
        predicted = said(m, x_t.detach(), t, text)
        return apart(predicted[:6], noise[:6]) + weight * apart(predicted[6:], noise[6:])

    def teach(m: byhand.Any, fake: byhand.Any) -> Tensor:
        x, x_t, t, _, text, safe = drawn(m, "generator", 38, 712)
        losses = distilled(f(task.original, x_t, t, safe), f(fake, x_t, t, text), x, alpha)
        return losses[:6].mean() + weight * losses[6:].mean()

    def clipped(m: byhand.Any, objective: byhand.Objective, rate: float) -> byhand.Any:
        twin = byhand.trainable(m)
        for key, g in byhand.gradient(twin, objective).items():
            twin.get_parameter(key).grad = g
        torch.nn.utils.clip_grad_value_(twin.parameters(), 1.0)
        torch.optim.Adam(twin.parameters(), lr=rate, betas=(beta1, 0.999), foreach=False).step()
        return twin

    fake = clipped(task.original, lambda m: learn(m, task.original), 2 * lr)
    generator = clipped(task.original, lambda m: teach(m, fake), lr)
    wanted = clipped(fake, lambda m: learn(m, generator, call=1), 3 * lr)
    options = {"anchor": "square", "alpha": alpha, "forget_weight": weight, "lr": lr, "fake_lr": 2 * lr, "beta1": beta1,
               "settle_lr": 3 * lr, "steps": 1, "batch_size": 6}
    byhand.assert_same(task, byhand.run("sfd", task, settle_steps=0, **options), fake, adam=True)
    found = byhand.run("sfd", task, settle_steps=1, **options)
    assert set(dict(found.named_parameters())) == set(dict(wanted.named_parameters()))   # the generator is gone
    byhand.assert_same(task, found, wanted, adam=True)
    assert isinstance(split, Split)
