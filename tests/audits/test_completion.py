"""Completion and inpainting: a model that has the pictures finishes them, one that never had them does not."""

from __future__ import annotations

import pytest
import tiny
import torch
from panels import values
from remembering import coloured, hidden, listening
from torch import Tensor, nn

from lethe.audits.diffusion.completion import measure
from lethe.judge.redrawing import continued, noises
from lethe.pools.subject import Subject

QUICK = {"pictures": 12}


def test_little_noise_gives_the_picture_back_and_a_mask_holds_it() -> None:
    task = coloured()
    subject, images = Subject("original", task.original, task), task.forget.columns["image"][:6]
    noise, text = noises(images, 0), task.text(task.forget.columns["tokens"][:6])
    assert (continued(task, subject, images, noise, text, 0.05) - images).abs().mean() < 0.1 < (noise - images).abs().mean()
    upper = torch.zeros_like(images[:1])
    upper[..., :4, :] = 1
    filled = continued(task, subject, images, noise, text, 1.0, upper)
    assert torch.equal(filled[..., :4, :], images[..., :4, :]) and not torch.equal(filled, images)


def test_noise_is_a_picture_s_own_whatever_stands_beside_it() -> None:
    images = coloured().forget.columns["image"]
    assert torch.equal(noises(images[:2], 3), noises(images[:5], 3)[:2]) and not torch.equal(*noises(images[:2], 3))


def test_controls() -> None:
    task = coloured()
    original = values(measure, Subject("original", task.original, task), **QUICK)
    fresh = values(measure, Subject("retrained", listening(task, task.retain), task), **QUICK)
    avoids = values(measure, Subject("hidden", hidden(task), task), **QUICK)
    assert original["completed"].value > fresh["completed"].value + 0.3
    assert fresh["completed_at_90"].value == 0 and fresh["inpainted"].value < original["inpainted"].value
    assert avoids["completed"].value > fresh["completed"].value + 0.2    # it never draws a disk when asked for one
    assert avoids["completed_empty"].value > avoids["completed_at_90"].value


def test_the_half_that_is_shown_is_noised_by_its_own_noise_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1 noised it by what the model had predicted in the step before."""
    task = tiny.diffusion()
    images = task.forget.columns["image"][:3]
    noise, upper, half = noises(images, 0), torch.zeros_like(images[:1]), images.shape[2] // 2
    upper[..., :half, :] = 1
    seen: list[tuple[int, Tensor]] = []

    def predict(model: nn.Module, x: Tensor, when: Tensor, states: Tensor) -> Tensor:
        seen.append((int(when), x))
        return torch.zeros_like(x)

    monkeypatch.setattr(task, "guided_noise", predict)
    text = task.text(task.forget.columns["tokens"][:3])
    continued(task, Subject("model", task.original, task), images, noise, text, 1.0, upper)
    assert len(seen) == 4
    for t, x in seen:
        shown = task.alphas_cumprod[t].sqrt() * images + (1 - task.alphas_cumprod[t]).sqrt() * noise
        assert torch.allclose(x[..., :half, :], shown[..., :half, :])
