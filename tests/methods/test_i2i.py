"""I2I unlearning: noise and codes worked out, a step by hand, the decoder untouched, and what it forgets on digits."""

from __future__ import annotations

from functools import cache
from typing import Any

import byhand
import pytest
import torch
from i2i_world import digits, looked
from running import as_users
from tiny import image_to_image as tiny_pictures
from torch import nn

import lethe
from lethe.errors import NeedsUnmet
from lethe.methods.image_to_image.i2i import apart, noise_like


def test_golden_formulas() -> None:
    x, rng = torch.tensor([[0.0, 1.0]]).view(1, 1, 1, 2), torch.Generator().manual_seed(0)
    z = torch.randn(1, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noise_like(x, "normal", rng), (0.5 + 0.5 * z).clamp(0, 1))
    assert noise_like(x, "constant", rng).flatten().tolist() == [0.5, 0.5]
    codes, wanted = [torch.ones(1, 2), torch.full((1, 1, 2), 3.0)], [torch.zeros(1, 2), torch.ones(1, 1, 2)]
    assert apart(codes, wanted).tolist() == [5.0]   # 1 + 4: a skip connection counts beside the code


def test_one_step_by_hand_moves_the_encoder_alone() -> None:
    task: Any = tiny_pictures()
    forget, kept, draws = task.forget.columns["image"], task.retain.columns["image"], {}
    for name, split in (("forget", task.forget), ("retain", task.retain)):
        rng, rows = byhand.drawn(name), byhand.order(split, name)
        noise = torch.randn(split.columns["image"].shape, generator=rng) if name == "forget" else None
        hide = torch.rand(len(split), 4, generator=rng).argsort(1)[:, :2]   # two of the four patches of 2 × 2
        patches = torch.zeros(len(split), 4).scatter(1, hide, 1.0).view(-1, 1, 2, 2)
        draws[name] = rows, noise, torch.nn.functional.interpolate(patches, scale_factor=2)

    def given(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.cat([x * (1 - mask), mask], 1)

    before = task.copy_of_original()
    (f, z, hide), (r, _, hidden) = draws["forget"], draws["retain"]
    x = forget[f]
    noise = (x.mean() + x.std(correction=0) * z).clamp(0, 1)

    def objective(m: Any) -> torch.Tensor:
        gone = m.encoder(given(x, hide)) - before.encoder(given(noise, hide)).detach()
        stay = m.encoder(given(kept[r], hidden)) - before.encoder(given(kept[r], hidden)).detach()
        return 0.7 * gone.square().mean() + stay.square().mean()

    options = {**byhand.ONE_STEP, "batch_size": 1000, "schedule": "constant"}
    found = byhand.run("i2i", task, alpha=0.7, **options)
    byhand.assert_same(task, found, byhand.steps(task, [objective]))
    assert all(torch.equal(p, task.original.get_parameter(f"decoder.{key}")) for key, p in found.decoder.named_parameters())


def test_without_retained_data_it_holds_on_to_a_proxy() -> None:
    task: Any = tiny_pictures()
    alone = task.replaced(None, retain=None, holdout=None)
    with pytest.raises(NeedsUnmet, match="retain"):
        lethe.forget(alone, "i2i", progress=False)
    proxied = task.replaced(None, retain=None, holdout=None, reference=task.retain.renumbered())
    options = {"keep": "proxy", "epochs": 40.0, "lr": 1e-2, "alpha": 1.0}
    model: nn.Module = lethe.forget(proxied, "i2i", progress=False, watchdog=False, **options).model
    batch = task.draw(task.forget.batch(range(len(task.forget))), torch.Generator().manual_seed(0), False)
    kept = task.draw(task.retain.batch(range(96)), torch.Generator().manual_seed(0), False)
    with torch.no_grad():
        lost, loss = ([float(task.nll(m, b).mean()) for m in (task.original, model)] for b in (batch, kept))
    assert lost[1] > 1.5 * lost[0] and loss[1] < 1.5 * loss[0]


@cache
def unlearned(seed: int, **options: Any) -> dict[str, float]:
    return looked(as_users("i2i", digits(), seed, watchdog=False, **dict(options)).model)


@pytest.mark.slow
def test_digits_go_and_the_others_stay() -> None:
    """Acceptance of the card, over 3 seeds: retained pictures lose at most 0.5 dB, by a proxy 1.5; forgotten ones lose more than
    1 dB, and no more than retrained models do; gradient ascent that takes as much from them harms the retained ones more."""
    before = looked(digits().original)
    for seed in range(3):
        real, proxy = unlearned(seed), unlearned(seed, keep="proxy")
        assert before["retain"] - real["retain"] <= 0.5 and before["retain"] - proxy["retain"] <= 1.5, (seed, real, proxy)
        assert before["forget"] - real["forget"] >= 1.0, (seed, real)
        ascent = looked(as_users("gradient_ascent", digits(), seed, watchdog=False, lr=1e-4, epochs=8.0).model)
        assert before["forget"] - ascent["forget"] < before["forget"] - real["forget"] or ascent["retain"] < real["retain"]


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="forgotten digits lose 1.9 dB of 14.7: half of each is seen, 8.6 dB is the mean picture")
def test_forgotten_digits_lose_six_decibels() -> None:
    """The card's claim, made at 256 pixels."""
    before = looked(digits().original)
    assert all(before["forget"] - unlearned(seed)["forget"] >= 6 for seed in range(3))
