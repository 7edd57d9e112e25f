"""Tiny trained tasks, one per family, made in seconds and deterministic; what the matrix tests run every method on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from lethe.core.data import Split
from lethe.core.task import Recipe, Task
from lethe.data.select import Where, divide
from lethe.engine.loop import Loop, recipe_options, recipe_terms
from lethe.models.classification import ClassificationTask
from lethe.models.zoo import MLP


def blobs(n: int, seed: int, name: str) -> Split:
    """n points of 4 Gaussian classes in 6 dimensions."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 4
    centres = torch.randn(4, 6, generator=torch.Generator().manual_seed(7)) * 1.5
    return Split({"x": centres[y] + torch.randn(n, 6, generator=rng), "y": y}, name)


@cache
def classification(forget: Where = Where(label=3)) -> Task:
    """An MLP trained on 160 points; class 3 is to be forgotten."""
    torch.manual_seed(0)
    train, holdout = blobs(160, 0, "train"), blobs(120, 1, "holdout")
    recipe = Recipe(epochs=20, lr=1e-2, batch_size=32)

    def build(seed: int) -> MLP:
        return MLP(6, (16,), 4)

    task = ClassificationTask(build(0), {"retain": train, "holdout": holdout}, recipe, build)
    loop = Loop(task)
    model = loop.start(task.build(0))
    loop.minimise(model, recipe_terms(task, train), **recipe_options(recipe))
    forget_split, retain = divide(train, forget)
    return ClassificationTask(loop.finish(model).model, {"forget": forget_split, "retain": retain, "holdout": holdout}, recipe, build)


TASKS: dict[str, Callable[[], Task]] = {"classification": classification}
