"""Refresh learning where it comes from: a continual learner (DER++, arXiv:2004.07211) whose every step is refreshed first.

Digits in five tasks of two classes, one task after the other, a buffer of 200 examples; accuracy on unseen digits of all classes.
"""

from __future__ import annotations

from functools import cache
from statistics import mean
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.methods.general.refresh import refreshed
from lethe.models.zoo import build

BUFFER, SIZE, EPOCHS, LR, ALPHA, BETA = 200, 32, 5, 0.03, 0.1, 0.5   # DER++: weights of replayed logits and labels
PROTECTION, NOISE, DECAY = 1e-3, 1e-3, 1e-5                          # of the official code of refresh learning
FISHER = 200                                                         # examples a task by which importance is measured


class Result(NamedTuple):
    accuracy: float
    weights: Tensor


class Buffer:
    """A uniform sample of what came by: inputs, labels and the logits of then."""

    def __init__(self, rng: torch.Generator) -> None:
        self.rng, self.seen = rng, 0
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, x: Tensor, y: Tensor, z: Tensor) -> None:
        for one in zip(x, y, z.detach(), strict=True):
            at = len(self.kept) if len(self.kept) < BUFFER else int(torch.randint(self.seen + 1, (1,), generator=self.rng))
            if at < BUFFER:
                self.kept[at : at + 1] = [one]
            self.seen += 1

    def draw(self) -> list[Tensor]:
        places = torch.randint(len(self.kept), (SIZE,), generator=self.rng).tolist()
        return [torch.stack(parts) for parts in zip(*(self.kept[place] for place in places), strict=True)]


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).div(16).view(-1, 1, 8, 8), torch.tensor(labels)


def importance(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """Mean squared gradients of single examples."""
    params = list(model.parameters())
    total = [torch.zeros_like(p) for p in params]
    for i in range(min(FISHER, len(x))):
        found = torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), params)
        total = [t + g**2 / min(FISHER, len(x)) for t, g in zip(total, found, strict=True)]
    return total


@cache
def learned(seed: int, delta: float | None) -> Result:
    """DER++ on the five tasks; delta: with refresh steps of this size. None: the plain optimiser, without any of its code."""
    x, y = digits()
    rng, noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 999)
    torch.manual_seed(seed)
    model = build("small_cnn")
    params, order = list(model.parameters()), torch.randperm(len(x), generator=rng)
    test, train, buffer = order[:450], order[450:], Buffer(rng)
    fisher = [torch.zeros_like(p) for p in params]
    for task in range(5):
        mine = train[y[train] // 2 == task]
        for _ in range(EPOCHS):
            for part in mine[torch.randperm(len(mine), generator=rng)].split(SIZE):
                replay = (buffer.draw(), buffer.draw()) if buffer.kept else None

                def loss(part: Tensor = part, replay: tuple[list[Tensor], list[Tensor]] | None = replay) -> tuple[Tensor, Tensor]:
                    z = model(x[part])
                    now = F.cross_entropy(z, y[part])
                    if replay:
                        (x1, _, z1), (x2, y2, _) = replay
                        now = now + ALPHA * F.mse_loss(model(x1), z1) + BETA * F.cross_entropy(model(x2), y2)
                    return now, z

                if delta is not None:
                    up = torch.autograd.grad(loss()[0], params)
                    with torch.no_grad():
                        for p, g, f in zip(params, up, fisher, strict=True):
                            shaken = NOISE * torch.randn(p.shape, generator=noise)
                            p.copy_(refreshed(p, g, 1 / (1 + PROTECTION * f), shaken, delta))
                value, z = loss()
                with torch.no_grad():
                    for p, g in zip(params, torch.autograd.grad(value, params), strict=True):
                        p.sub_(LR * g)
                buffer.add(x[part], y[part], z)
        if delta is not None:
            fisher = [DECAY * f + g for f, g in zip(fisher, importance(model, x[mine], y[mine]), strict=True)]
    with torch.no_grad():
        right = model(x[test]).argmax(1) == y[test]
        return Result(100 * float(right.float().mean()), torch.cat([p.detach().flatten() for p in params]))


@pytest.mark.slow
def test_refreshing_by_nothing_is_the_plain_optimiser_bit_for_bit() -> None:
    assert torch.equal(learned(0, 0.0).weights, learned(0, None).weights)


@pytest.mark.slow
def test_refreshed_der_is_not_worse_than_der_and_not_better() -> None:
    """The official size of a step, 1e-5: within 0.2 points, as the card asks, and no gain, which the paper reports."""
    gains = [learned(seed, 1e-5).accuracy - learned(seed, None).accuracy for seed in range(5)]
    assert mean(gains) >= -0.2 and abs(mean(gains)) < 1
