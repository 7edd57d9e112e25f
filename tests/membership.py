"""A tiny model that has learned wrong labels by heart, its shadows and references: what per-example attacks must find."""

from __future__ import annotations

from functools import cache

import tiny
import torch

from lethe.core.catalogue import load
from lethe.core.evidence import Value
from lethe.core.split import Split
from lethe.core.task import Recipe, Task
from lethe.data.select import Where, divide
from lethe.judge.panel import Panel
from lethe.models.classification.task import Classification
from lethe.models.zoo.mlp import MLP
from lethe.pools.pool import train_pool
from lethe.pools.procedures import NOTHING, RETRAIN
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Procedure, Subject


def noisy_blobs(n: int, seed: int, name: str) -> Split:
    """Four Gaussian classes, every third label wrong at random: it can only be learned by heart."""
    split, rng = tiny.blobs(n, seed, name), torch.Generator().manual_seed(seed)
    wrong, shift = torch.rand(n, generator=rng) < 0.3, torch.randint(1, 4, (n,), generator=rng)
    y = split.columns["y"]
    return Split({"x": split.columns["x"], "y": torch.where(wrong, (y + shift) % 4, y)}, name)


@cache
def task() -> Task:
    """160 noisy points learned by heart, 40 of them to be forgotten; 160 unseen."""
    train, holdout = noisy_blobs(160, 11, "train"), noisy_blobs(160, 12, "holdout")
    recipe = Recipe(epochs=40, lr=2e-2, batch_size=40)

    def build(seed: int) -> MLP:
        return MLP(6, (64,), 4)

    whole = Classification(build(0), {"retain": train, "holdout": holdout}, recipe, build)
    original = tiny.trained(whole, train)
    forget, retain = divide(train, Where(count=40))
    return Classification(original, {"forget": forget, "retain": retain, "holdout": holdout}, recipe, build)


@cache
def shadows(limit: int = 8) -> Shadows:
    return Shadows(task(), limit, 0, "serial")


@cache
def references() -> tuple[Subject, ...]:
    pool = train_pool(task(), count=5, seed=1, strategy="serial")
    return tuple(Subject(f"r{i}", model, task(), procedure=RETRAIN) for i, model in enumerate(pool.models))


@cache
def original(procedure: Procedure = NOTHING) -> Subject:
    return Subject("original", task().original, task(), procedure=procedure)


def found(name: str, subject: Subject, pool: Shadows | None = None, **options: object) -> dict[str, Value]:
    """The audit's values by metric beside the references other than the subject, and the shadows."""
    record = load("audits", name)
    others = [r for r in references() if r is not subject]
    panel = Panel(task(), original(), others, retrained=len(others) < len(references()), shadows=pool)
    return {v.metric: v for v in record.measure(record.config(**options), subject, panel)}


def controls(name: str, metric: str, pool: Shadows | None = None, **options: object) -> tuple[Value, list[Value]]:
    """(the value of the untouched original, the values of four retrained models)."""
    return found(name, original(), pool, **options)[metric], [found(name, r, pool, **options)[metric] for r in references()[:4]]
