"""A tiny task on which memory shows: a net wide and long enough to learn random labels by heart."""

from __future__ import annotations

from functools import cache

import tiny
import torch

from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.data.select import Where, divide
from lethe.judge.panel import Panel
from lethe.models.classification.task import Classification
from lethe.models.zoo.mlp import MLP
from lethe.pools.pool import train_pool
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Subject


def noisy(n: int, seed: int, name: str) -> Split:
    """Points of four classes, a third of them with a random label."""
    points, rng = tiny.blobs(n, seed, name), torch.Generator().manual_seed(seed + 100)
    y = torch.where(torch.rand(n, generator=rng) < 1 / 3, torch.randint(4, (n,), generator=rng), points.columns["y"])
    return Split({"x": points.columns["x"], "y": y}, name)


@cache
def task() -> Classification:
    """120 points to train on, of which 30 are to be forgotten; 160 unseen."""
    train, holdout = noisy(120, 0, "train"), noisy(160, 1, "holdout")
    recipe = Recipe(epochs=60, lr=1e-2, batch_size=32)

    def build(seed: int) -> MLP:
        return MLP(6, (64,), 4)

    whole = Classification(build(0), {"retain": train, "holdout": holdout}, recipe, build)
    forget, retain = divide(train, Where(index=tuple(range(30))))
    splits = {"forget": forget, "retain": retain, "holdout": holdout}
    return Classification(tiny.trained(whole, train), splits, recipe, build)


@cache
def retrained(count: int) -> list[Subject]:
    found = train_pool(task(), count=count, seed=1, strategy="vmap")
    return [Subject(f"r{i}", model, task()) for i, model in enumerate(found.models)]


def panel(references: list[Subject], limit: int = 16, seed: int = 0) -> Panel:
    shadows = Shadows(task(), limit, seed, strategy="serial")
    return Panel(task(), Subject("original", task().original, task()), references, seed=seed, shadows=shadows)
