"""Regression methods on real data: digits read as numbers (0–2 forgotten), and California housing (target > 4 forgotten).

3 originals (seeds), 3 models retrained without the forget set. W₁ is the Wasserstein-1 distance of predictions on the forget set
to those of the retrained models, mean over them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import pytest
import torch
from running import as_users as run
from torch import Tensor, nn

from lethe.core.modules import evaluating
from lethe.core.split import Split
from lethe.core.task import Recipe, Task
from lethe.data.context import Context
from lethe.data.load import load
from lethe.data.select import Where, divide, where
from lethe.models.regression.task import Regression
from lethe.models.zoo import build

pytestmark = pytest.mark.slow

FINETUNE = {"optimiser": "adam", "lr": 1e-3, "epochs": 5.0, "weight_decay": 0.0}   # the same steps as the others


class World(NamedTuple):
    tasks: list[Task]
    retrained: list[nn.Module]
    unseen: Split   # test examples of the retained range


def world(train: Split, test: Split, chosen: Where, recipe: Recipe, loss: str, fresh: Callable[[int], nn.Module]) -> World:
    forget, retain = divide(train, chosen)

    def trained(split: Split, seed: int) -> nn.Module:
        return run("retrain", Regression(fresh(0), {"retain": split}, recipe, fresh, loss=loss), seed).model

    tasks: list[Task] = [Regression(trained(train, s), {"forget": forget, "retain": retain}, recipe, fresh, loss=loss)
                         for s in range(3)]
    return World(tasks, [trained(retain, 100 + i) for i in range(3)], divide(test, chosen)[1])


@cache
def digits() -> World:
    from sklearn.datasets import load_digits

    images, numbers = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32).div(16).view(-1, 1, 8, 8)[order]
    y = torch.tensor(numbers, dtype=torch.float32)[order]
    train, test = Split({"x": x[:1344], "y": y[:1344]}, "train"), Split({"x": x[1344:], "y": y[1344:]}, "test")
    recipe = Recipe(epochs=30, lr=2e-3, batch_size=64, schedule="onecycle")
    return world(train, test, where(query="y < 2.5"), recipe, "absolute", lambda seed: build("small_cnn", classes=1))


@cache
def california(root: Path) -> World:
    data = load({"kind": "table", "path": "tabular/california_housing.csv.gz", "label": "target", "target": "standard",
                 "holdout": 0.4, "limit": 3000}, Context(root))
    recipe = Recipe(epochs=20, lr=3e-3, batch_size=64, schedule="onecycle")
    return world(data["train"], data["holdout"], where(query="target > 4"), recipe, "squared",
                 lambda seed: build("mlp", inputs=8, hidden=(64, 64), classes=1))


def said(task: Task, model: nn.Module, split: Split) -> Tensor:
    with evaluating(model):
        return task.outputs(model, split.batch(range(len(split))))[:, 0]


def distances(here: World, models: list[nn.Module]) -> list[float]:
    """W₁ of each model to the retrained ones other than itself."""
    def w1(task: Task, one: nn.Module, other: nn.Module) -> float:
        return float((said(task, one, task.forget).sort()[0] - said(task, other, task.forget).sort()[0]).abs().mean())

    return [mean(w1(t, m, o) for o in here.retrained if o is not m) for t, m in zip(here.tasks, models, strict=True)]


def error(here: World, models: list[nn.Module]) -> float:
    y = here.unseen.columns["y"]
    return mean(float((said(t, m, here.unseen) - y).abs().mean()) for t, m in zip(here.tasks, models, strict=True))


def unlearned(here: World, name: str, **options: object) -> list[nn.Module]:
    return [run(name, task, seed, **options).model for seed, task in enumerate(here.tasks)]


def test_digits_blindspot_before_gaussian_before_finetuning_on_every_seed() -> None:
    here = digits()
    blindspot, gaussian = unlearned(here, "blindspot"), unlearned(here, "gaussian_finetune")
    finetune = distances(here, unlearned(here, "finetune", **FINETUNE))
    for blind, drawn, tuned in zip(distances(here, blindspot), distances(here, gaussian), finetune, strict=True):
        assert blind < 0.5 * drawn < drawn < tuned
    assert max(distances(here, here.retrained)) < 0.3 < 5 < min(distances(here, [t.original for t in here.tasks]))
    assert error(here, blindspot) <= 1.35 * error(here, here.retrained)


def test_california_blindspot_before_finetuning_and_gaussian_worse_than_nothing(data_root: Path) -> None:
    """Not every published order holds: where inputs alone tell the range, random targets teach what no retrained model says."""
    here = california(data_root)
    blindspot = unlearned(here, "blindspot")
    untouched = mean(distances(here, [t.original for t in here.tasks]))
    finetune = mean(distances(here, unlearned(here, "finetune", **FINETUNE)))
    assert mean(distances(here, here.retrained)) < mean(distances(here, blindspot)) < finetune < 0.5 * untouched
    assert mean(distances(here, unlearned(here, "gaussian_finetune"))) > untouched
    assert error(here, blindspot) <= 1.05 * error(here, here.retrained)
