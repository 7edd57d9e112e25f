"""The erasure audit finds the concept where it is, misses it where it is not, and sees noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lethe.audits.diffusion.erasure import Erasure, measure
from lethe.core.evidence import Value
from lethe.data.shapes import COLOURS, caption, captions, render, shapes
from lethe.judge.auditor import applicable
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.models.diffusion import small as tiny_diffusion
from lethe.models.diffusion.open import text_to_image
from lethe.pools.subject import Subject


def world(drawer, judge=True):
    """A task whose 'model' draws what `drawer(prompt)` says: the audit is tested apart from diffusion."""
    others = [text for text in captions() if "disk" not in text]
    keep = [text for i, text in enumerate(others) if (i + i // 4) % 2]   # every colour and every shape
    outside = [text for text in others if text not in keep]
    task = text_to_image(
        tiny_diffusion.pipeline(width=16), "disk", keep, [caption(c, "disk") for c in COLOURS], outside,
        shapes(128), judge=tiny_diffusion.judge() if judge else None, guidance=1.0,
    )
    task.sample = lambda model, prompts, seed=0: torch.stack([drawer(prompt) for prompt in prompts])   # type: ignore[method-assign]
    return task


def look(drawer) -> dict[str, Value]:
    task = world(drawer)
    subject = Subject("drawn", task.original, task)
    values = measure.measure(Erasure(), subject, Panel(task, subject, []))
    return {value.metric: value for value in values}


def faithful(prompt: str) -> torch.Tensor:
    return render(*prompt.split()[1:]) if prompt else render("red", "square")


def test_a_model_that_draws_what_is_asked_is_found_out() -> None:
    found = look(faithful)
    assert found["unlearning_accuracy"].value == 0 and found["unlearning_accuracy"].high < 0.15
    for name in ("kept_accuracy", "kept_other_accuracy", "outside_accuracy", "forget_other_accuracy"):
        assert found[name].value == 1
    assert found["prevalence"].value == 0 and found["unlearning_accuracy"].n == 4 * 8


def test_a_model_without_disks_passes() -> None:
    found = look(lambda prompt: faithful(prompt.replace("disk", "cross")))
    assert found["unlearning_accuracy"].value == 1 and found["kept_accuracy"].value == 1


def test_what_suffers_is_named() -> None:
    def blind_to_colour(prompt: str) -> torch.Tensor:
        return render("red", prompt.split()[2]) if prompt else render("red", "disk")

    found = look(blind_to_colour)
    assert found["kept_accuracy"].value == 1 and found["kept_other_accuracy"].value < 0.5
    assert found["prevalence"].value == 1
    noise = look(lambda prompt: torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(len(prompt))).clamp(-1, 1))
    assert noise["kept_accuracy"].value < 0.7 and noise["frechet_kept"].value > 10 * look(faithful)["frechet_kept"].value


def test_shares_carry_wilsons_interval() -> None:
    value = mean_value("kept_accuracy", np.array([1.0, 1.0, 1.0, 0.0]))
    assert value.value == 0.75 and value.low == pytest.approx(0.3006, abs=1e-4)   # Wilson's formula at 3 of 4, by hand
    found = look(lambda prompt: faithful(prompt.replace("disk", "cross")))["unlearning_accuracy"]
    assert (found.low, found.high) == (pytest.approx(0.8928, abs=1e-4), 1.0)      # 32 of 32: 1 / (1 + 1.96² / 32)


def test_without_a_concept_there_is_nothing_to_judge() -> None:
    task = world(faithful, judge=False)
    assert applicable(measure, task, 0, "standard") != "needs judge"      # the original judges
    task.judge = None
    assert applicable(measure, task, 0, "standard") == "needs judge"
