"""Problems that no default was chosen on: spoken digits as spectrograms, a table of mails, a few deleted pictures. Synthetic.

Each has unseen data for methods (holdout) and, apart from them, data by which a test judges (test).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

import lethe
from lethe.core.split import Split
from lethe.core.task import Recipe, Task
from lethe.models.classification.task import Classification


def spectrograms(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ten words of two formants each, said by six speakers: pictures [n, 1, 16, 16], words, speakers."""
    rng = torch.Generator().manual_seed(seed)
    word, speaker = torch.randint(10, (n,), generator=rng), torch.randint(6, (n,), generator=rng)
    t, f = torch.linspace(0, 1, 16).view(1, 1, 16), torch.linspace(0, 1, 16).view(1, 16, 1)
    shift, tempo = 0.05 * (speaker - 2.5).view(-1, 1, 1), (1 + 0.12 * (speaker - 2.5)).view(-1, 1, 1)
    k = word.view(-1, 1, 1)
    tracks = (0.25 + 0.2 * torch.sin(2 * math.pi * (t * tempo + k / 10)),
              0.65 + 0.2 * torch.cos(math.pi * (t * tempo * (1 + k % 3))))
    picture = torch.stack([torch.exp(-((f - track - shift) / 0.06) ** 2) for track in tracks]).sum(0)
    return (picture + 0.35 * torch.randn(n, 16, 16, generator=rng)).unsqueeze(1), word, speaker


def listener(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Flatten(), nn.Linear(24 * 16, 10))


def mails(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Frequencies of 57 words and whether the mail is spam."""
    rng, truth = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(99)
    x = torch.randn(n, 57, generator=rng)
    w = torch.randn(57, generator=truth) * (torch.rand(57, generator=truth) < 0.3)
    y = (x @ w + 0.8 * torch.randn(n, generator=rng) > 0.3).long()
    return x, y


def reader(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(57, 64), nn.ReLU(), nn.Linear(64, 2))


def opened(x: Tensor, y: Tensor, forget: Tensor, count: int, build: Callable[[int], nn.Module], recipe: Recipe) -> Task:
    """The first `count` are trained on; of the rest the first half is holdout, the second test."""
    rest = (len(x) - count) // 2 + count
    gone = forget[:count]
    train = Split({"x": x[:count], "y": y[:count]}, "train")
    whole = Classification(build(0), {"retain": train}, recipe, build)
    original = lethe.forget(whole, "retrain", progress=False).model
    splits = {"forget": train.subset(gone.numpy(), "forget"), "retain": train.subset((~gone).numpy(), "retain"),
              "holdout": Split({"x": x[count:rest], "y": y[count:rest]}, "holdout"),
              "test": Split({"x": x[rest:], "y": y[rest:]}, "test")}
    return Classification(original, splits, recipe, build)


@cache
def spoken() -> Task:
    """One speaker of six is to be forgotten."""
    x, word, speaker = spectrograms(2600, 0)
    return opened(x, word, speaker == 2, 1000, listener, Recipe(epochs=12, lr=3e-3, batch_size=64, schedule="onecycle"))


@cache
def mail() -> Task:
    """A random tenth is to be forgotten."""
    x, y = mails(3600, 1)
    return opened(x, y, torch.arange(len(x)) % 10 == 0, 2000, reader, Recipe(epochs=15, lr=3e-3, batch_size=64))


@cache
def two_pictures() -> Task:
    """Two of 600 recordings are to be forgotten."""
    x, word, _ = spectrograms(2200, 3)
    return opened(x, word, torch.arange(len(x)) < 2, 600, listener, Recipe(epochs=8, lr=3e-3, batch_size=64, schedule="onecycle"))


PROBLEMS = {"spoken": spoken, "mail": mail, "two_pictures": two_pictures}
