"""Classifier guidance: its margin by arithmetic, one step of the classifier and one pushed prediction by hand, and the claim."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import byhand
import pytest
import torch
import torch.nn.functional as F
from panels import seen
from torch import Tensor

from lethe.api import forget
from lethe.core.guard import as_served
from lethe.core.seeds import derive
from lethe.methods.guard.classifier_guidance import Classified, margin
from lethe.train.critic import Critic, flat
from lethe.train.watchdog import Watchdog
from lethe.work.execute import Options
from lethe.work.open import tasks_of
from lethe.work.request import read

PRESET = Path(__file__).resolve().parents[2] / "presets" / "shapes_erase.yaml"
SMALL: dict[str, Any] = {"width": 4, "lr": 0.01, "epochs": 1, "batch_size": 100}


def test_golden_numbers() -> None:
    logits = torch.tensor([[4.0, 9.0]]).log()
    assert margin(logits, 1.0, 1.0).exp().tolist() == pytest.approx([4 / 13])
    assert margin(logits, 1.0, 0.5).exp().tolist() == pytest.approx([4 / 5])
    assert margin(logits, 2.0, 0.5).exp().tolist() == pytest.approx([16 / 13])


def by_hand(weights: Tensor, x: Tensor, level: Tensor, width: int, outputs: int, bent: Any) -> Tensor:
    """The critic, written out."""
    shapes = [(width, x.shape[1], 3, 3), (width,), (2 * width, width, 3, 3), (2 * width,), (4 * width, 2 * width, 3, 3),
              (4 * width,), (4 * width, 8), (4 * width,), (outputs, 4 * width), (outputs,)]
    parts = [piece.view(shape) for piece, shape in zip(
        weights.split([int(torch.tensor(shape).prod()) for shape in shapes]), shapes, strict=True)]
    waves = torch.stack([torch.cos(torch.pi * k * level) for k in range(8)], 1)
    film = waves @ parts[6].T + parts[7]
    h = bent(F.conv2d(x, parts[0], parts[1], padding=1))
    h = F.conv2d(h, parts[2], parts[3], stride=2, padding=1)
    h = bent(h * (1 + film[:, : 2 * width, None, None]) + film[:, 2 * width :, None, None])
    h = bent(F.conv2d(h, parts[4], parts[5], stride=2, padding=1)).mean((2, 3))
    return h @ parts[8].T + parts[9]


def test_one_step_and_one_prediction_by_hand(tmp_path: Path) -> None:
    task = byhand.diffusion()
    outcome = byhand.outcome("classifier_guidance", task, scale=-0.7, temperature=1.5, discount=0.4, softness=2.0, sine=0.3,
                             last=0.8, **SMALL)
    guard: Any = outcome.answering
    assert isinstance(guard, Classified) and outcome.kind == "guard"
    torch.manual_seed(derive(0, "critic"))
    critic = Critic(3, 2, 4)
    adam = torch.optim.Adam(critic.parameters(), lr=0.01)
    images = [split.columns["image"] for split in (task.retain, task.forget)]
    said = [by_hand(torch.cat([p.flatten() for p in critic.parameters()]), x, torch.zeros(len(x)), 4, 2, F.relu) for x in images]
    (-said[0].log_softmax(1)[:, 0].mean() - said[1].log_softmax(1)[:, 1].mean()).backward()
    adam.step()
    assert torch.allclose(guard.weights, flat(critic), atol=2e-4)

    text = task.text(task.tokens(["a red disk", ""]))
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), 600
    with torch.no_grad():
        noise = task.original(x, t, encoder_hidden_states=text)[0]
        found = guard(x, t, encoder_hidden_states=text)[0]
        late, plain = (model(x, 900, encoder_hidden_states=text)[0] for model in (guard, task.original))
    signal, size = task.alphas_cumprod[t].sqrt(), (1 - task.alphas_cumprod[t]).sqrt()
    clean = (x - size * noise) / signal
    leaf = clean.clamp(-1, 1).requires_grad_(True)
    logits = by_hand(guard.weights, leaf, torch.zeros(2), 4, 2, lambda h: F.softplus(h, 2.0))
    (slope,) = torch.autograd.grad((1.5 * logits[:, 0] - (0.6 * logits.exp().log()).exp().sum(1).log()).sum(), leaf)
    factor = -0.7 * (1 + 0.3 * torch.sin(torch.tensor(torch.pi * 0.6)))
    moved = (clean + size**2 / signal * factor * slope).clamp(-1, 1)
    assert torch.allclose(found, (x - signal * moved) / size, atol=1e-4)
    uncut = (clean.abs() < 0.9) & (moved.abs() < 0.9)
    assert bool(uncut.any()) and torch.allclose(found[uncut], (noise - size * factor * slope)[uncut], atol=1e-4)
    assert torch.equal(late, plain)      # after `last` of the times it leaves the network alone
    again = as_served(outcome.save(tmp_path / "out"), task.original)
    with torch.no_grad():
        assert isinstance(again, Classified) and torch.equal(again(x, t, encoder_hidden_states=text)[0], found)


def test_without_strength_pictures_are_the_original_s() -> None:
    task = byhand.diffusion()
    guard = byhand.outcome("classifier_guidance", task, scale=0.0, **SMALL).answering
    drawn, plain = (task.sample(model, ["a red disk"], seed=1, steps=2) for model in (guard, task.original))
    assert torch.equal(drawn, plain)


@pytest.mark.slow
def test_the_concept_goes_and_the_rest_stays(request: pytest.FixtureRequest) -> None:
    """Of the concept's pictures 0.09 to 0.13 show it (original 0.84), kept shapes 0.93 (original 0.94), 3 seeds. Card: at
    most 0.3 of what did, and 3 points. Pushed the other way, pictures without a prompt show it more often."""
    task: Any = tasks_of(read(PRESET), Options(cache=request.config.cache.mkdir("lethe")))[""]
    before, rows = seen(task, task.original, erasure={}), []
    for seed in (0, 1, 2):
        guard: Any = forget(task, "classifier_guidance", seed=seed, progress=False, watchdog=Watchdog(loss=10.0)).answering
        rows.append(seen(task, guard, erasure={}))
    print(before, rows)
    shows = 1 - fmean(row["unlearning_accuracy"] for row in rows)
    assert shows <= 0.3 * (1 - before["unlearning_accuracy"])
    assert fmean(row["kept_accuracy"] for row in rows) >= before["kept_accuracy"] - 0.03
    guard.scale = -1.0
    assert seen(guard)["prevalence"] > before["prevalence"] + 0.1
