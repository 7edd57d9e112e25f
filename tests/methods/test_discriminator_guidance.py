"""Discriminator guidance: its ratio and its times by arithmetic, the best critic of a mixture, a pushed prediction, the claim."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import byhand
import pytest
import torch
from panels import seen
from torch import Tensor

from lethe.api import forget
from lethe.core.guard import as_served
from lethe.methods.guard.discriminator_guidance import Discriminated, chances, log_ratio
from lethe.train.watchdog import Watchdog
from lethe.work.execute import Options
from lethe.work.open import tasks_of
from lethe.work.request import read

PRESET = Path(__file__).resolve().parents[2] / "presets" / "shapes_erase.yaml"
SMALL: dict[str, Any] = {"width": 4, "lr": 0.01, "epochs": 2, "batch_size": 16}


def test_golden_numbers() -> None:
    z = torch.tensor([2.0, 20.0, -20.0], requires_grad=True)
    said = log_ratio(z)
    assert said.tolist() == pytest.approx([2, 11.512915, -11.512915])
    assert torch.autograd.grad(said.sum(), z)[0].tolist() == [1, 0, 0]
    assert chances(torch.tensor([0.9, 0.45])).tolist() == pytest.approx([11 / 21, 10 / 21])


def test_the_best_critic_of_a_mixture_makes_its_score_that_of_the_good_half() -> None:
    """Two Gaussians, noised: s_all + ∇ log D/(1 − D) is the score of the first, for D = p_good / (p_good + p_all)."""
    good, bad, rng = torch.tensor([0.8, 0.0]), torch.tensor([-0.4, 0.5]), torch.Generator().manual_seed(0)
    x = torch.randn(9, 2, generator=rng, dtype=torch.float64).requires_grad_(True)
    for signal in (0.9, 0.4):
        spread = signal * 0.3 + 1 - signal

        def density(x: Tensor, centre: Tensor, signal: float = signal, spread: float = spread) -> Tensor:
            return -((x - signal**0.5 * centre) ** 2).sum(1) / (2 * spread)

        whole = torch.logaddexp(density(x, good), density(x, bad)) - torch.log(torch.tensor(2.0))
        push = torch.autograd.grad(log_ratio(density(x, good) - whole).sum(), x, retain_graph=True)[0]
        score = torch.autograd.grad(whole.sum(), x)[0]
        assert torch.allclose(score + push, -(x - signal**0.5 * good) / spread)


def test_a_prediction_by_hand(tmp_path: Path) -> None:
    task = byhand.diffusion()
    outcome = byhand.outcome("discriminator_guidance", task, w=1.5, first=0.2, last=0.7, **SMALL)
    guard: Any = outcome.answering
    assert isinstance(guard, Discriminated) and outcome.kind == "guard"
    text = task.text(task.tokens(["a red disk", ""]))
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), 500
    signal, size = task.alphas_cumprod[t].sqrt(), (1 - task.alphas_cumprod[t]).sqrt()
    with torch.no_grad():
        noise, found = (model(x, t, encoder_hidden_states=text)[0] for model in (task.original, guard))
        for other in (100, 800):
            assert torch.equal(*(model(x, other, encoder_hidden_states=text)[0] for model in (task.original, guard)))
    leaf = x.clone().requires_grad_(True)
    d = torch.sigmoid(guard.asked(leaf, size.expand(2), 1, 5.0))
    (slope,) = torch.autograd.grad((d / (1 - d)).log().sum(), leaf)
    moved = ((x - size * noise) / signal + size**2 / signal * 1.5 * slope).clamp(-1, 1)
    assert torch.allclose(found, (x - signal * moved) / size, atol=1e-4) and not torch.allclose(found, noise, atol=1e-3)
    again = as_served(outcome.save(tmp_path / "out"), task.original)
    with torch.no_grad():
        assert isinstance(again, Discriminated) and torch.equal(again(x, t, encoder_hidden_states=text)[0], found)


def test_without_weight_pictures_are_the_original_s() -> None:
    task = byhand.diffusion()
    guard = byhand.outcome("discriminator_guidance", task, w=0.0, **SMALL).answering
    drawn, plain = (task.sample(model, ["a red disk"], seed=1, steps=2) for model in (guard, task.original))
    assert torch.equal(drawn, plain)


# -- the claim, on the preset's model: trained once (about 3 CPU minutes) and kept in pytest's cache folder ----------------


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest) -> list[dict[str, float]]:
    """What the original shows, then three guards with w = 3."""
    task: Any = tasks_of(read(PRESET), Options(cache=request.config.cache.mkdir("lethe")))[""]
    models = [task.original]
    for seed in (0, 1, 2):
        models.append(forget(task, "discriminator_guidance", seed=seed, progress=False, w=3.0, lr=3e-3,
                             watchdog=Watchdog(loss=20.0)).answering)
    return [seen(task, model, erasure={"empty": 128}) for model in models]


@pytest.mark.slow
def test_the_concept_becomes_rarer_and_the_rest_stays(rows: list[dict[str, float]]) -> None:
    """Without a prompt 0.30 to 0.14; for its prompts 0.84 to 0.51; kept shapes 0.94 to 0.93 (3 seeds)."""
    before, after = rows[0], rows[1:]
    assert fmean(row["prevalence"] for row in after) <= 0.6 * before["prevalence"]
    assert fmean(row["unlearning_accuracy"] for row in after) >= before["unlearning_accuracy"] + 0.2
    assert fmean(row["kept_accuracy"] for row in after) >= before["kept_accuracy"] - 0.03


@pytest.mark.slow
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="of pictures without a prompt 0.14 show it, of 0.30 before, "
                                                              "and the Fréchet distance goes from 54 to 130 (3 seeds)")
def test_four_in_five_go(rows: list[dict[str, float]]) -> None:
    before, after = rows[0], rows[1:]
    assert fmean(row["prevalence"] for row in after) <= 0.2 * before["prevalence"]
    assert fmean(row["frechet_kept"] for row in after) <= 1.15 * before["frechet_kept"]
