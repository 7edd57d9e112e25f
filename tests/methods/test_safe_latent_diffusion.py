"""Safe latent diffusion: the rule of one step, whole pictures by a sampler written out, and the guard's files."""

from __future__ import annotations

from pathlib import Path

import byhand
import pytest
import torch
from diffusion_folders import opened
from torch import Tensor

from lethe.api import forget
from lethe.core.guard import as_served
from lethe.core.seeds import generator
from lethe.methods.guard.safe_latent_diffusion import STRENGTHS, SafeLatentDiffusion, Steered, away
from lethe.pools.subject import Subject


def test_golden_numbers() -> None:
    one, none = torch.ones(1), torch.zeros(1)
    assert away(one, none, 3 * one, 0.25, 0.0).tolist() == [1.5]
    assert away(one, none, one / 2, 0.25, 0.0).tolist() == [0.0]      # the prompt leads away from it already
    assert away(one, none, 30 * one, 0.25, 0.0).tolist() == [30.0]    # μ is at most 1


@pytest.mark.parametrize(("strength", "words", "guidance"), [("max", "", 2.0), ("strong", "a square", 1.0), ("medium", "", 1.0)])
def test_pictures_by_hand(strength: str, words: str, guidance: float) -> None:
    """By DDIM steps written out; weak to strong begin late, so that a few steps show that they wait."""
    task, steps = byhand.diffusion(), 3 if strength == "max" else 12   # s_S = 5000 enlarges rounding at every step
    outcome = byhand.outcome("safe_latent_diffusion", task, strength=strength, words=words)
    was = dict(task.original.named_parameters())
    assert outcome.kind == "guard" and all(torch.equal(p, was[name]) for name, p in outcome.model.named_parameters())
    c, s, e = task.text(task.tokens(["a red disk", words or task.concepts[0].concept, ""])).unsqueeze(1)
    warm_up, scale, limit, share, decay = STRENGTHS[strength]   # type: ignore[index]
    scheduler = type(task.pipeline.scheduler).from_config(task.pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    points = [x for _, x in task.denoise(task.original, c, 3, 1, 1.0)]
    x, momentum = points[0], torch.zeros(1)

    def said(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return task.original(x, t, encoder_hidden_states=text)[0].detach()

    for i, t in enumerate(scheduler.timesteps):
        cond, free, unsafe = (said(x, t, text) for text in (c, e, s))
        mu = (scale * (cond - unsafe).abs()).clamp(max=1) * (cond - unsafe < limit)
        found = mu * (unsafe - free) + share * momentum
        momentum = decay * momentum + (1 - decay) * found
        cond = cond - found if i >= warm_up else cond
        x = scheduler.step(free + guidance * (cond - free), t, x).prev_sample
    drawn = task.sample(outcome.answering, ["a red disk"], seed=3, steps=steps, guidance=guidance)
    plain = task.sample(task.original, ["a red disk"], seed=3, steps=steps, guidance=guidance)
    assert torch.allclose(drawn, task.decode(x), atol=1e-4)
    assert float((drawn - plain).abs().max()) > 1e-3
    for unnamed in (outcome.answering, task.original):
        assert torch.equal(task.sample(unnamed, [""], seed=3), task.sample(task.original, [""], seed=3))


def test_it_is_saved_beside_its_model(tmp_path: Path) -> None:
    task = byhand.diffusion()
    outcome = forget(task, SafeLatentDiffusion(strength="max"), progress=False)
    again = as_served(outcome.save(tmp_path / "out"), task.original)
    assert isinstance(again, Steered) and again.model is task.original
    prompts = ["a red disk", "a blue cross"]
    assert torch.equal(task.sample(again, prompts, seed=1), task.sample(outcome.answering, prompts, seed=1))


@pytest.mark.parametrize("kind", ["sdxl", "inpainting"])
def test_networks_that_read_more_than_text_states_are_steered_by_the_same_rule(kind: str) -> None:
    """At one step, with pooled text and the size of the picture, or with a mask, as the task itself asks the original."""
    task = opened(kind)
    guard = forget(task, SafeLatentDiffusion(strength="max"), progress=False).answering
    x, t = torch.randn(2, *task.shape, generator=generator(0, kind)), torch.tensor([900, 900])
    cond, free, unsafe = (task.predict_noise(task.original, x, t, task.text(task.tokens([text] * 2)))
                          for text in ("a blue disk", "", "disk"))
    _, scale, limit, *_ = STRENGTHS["max"]
    wanted = cond - away(cond, free, unsafe, scale, limit)
    with torch.no_grad():
        found = task.predict_noise(guard, x, t, task.text(task.tokens(["a blue disk"] * 2)))
        assert torch.allclose(found, wanted, atol=1e-3) and not torch.allclose(found, cond, atol=1e-2)
        one = task.text(task.tokens(["a blue disk", ""]))
        assert torch.allclose(task.predict_noise(guard, x, t, one)[1], free[1], atol=1e-5)


def test_what_audits_observe_is_of_each_picture_though_the_guard_asks_for_more() -> None:
    """The network is asked three times for a picture with a prompt; features are the weights' own, one row a picture."""
    task = byhand.diffusion()
    guard = forget(task, SafeLatentDiffusion(strength="max"), progress=False).answering
    split = task.forget
    seen, plain = (Subject("model", model, task).seen(split) for model in (guard, task.original))
    assert len(seen["features"]) == len(split) and torch.allclose(seen["features"], plain["features"], atol=1e-5)
    assert not torch.allclose(seen["nll"], plain["nll"])
