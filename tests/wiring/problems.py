"""Small problems on which every option of every method can show: pictures in four classes, pictures with a number each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import tiny
import torch
from torch import Tensor, nn

from lethe.core.split import Split
from lethe.core.task import Recipe, Task
from lethe.data.select import Where, divide
from lethe.models.classification.task import Classification
from lethe.models.regression.task import Regression


class Eyes(nn.Module):
    """Two convolutions with batch norm and two linear layers for pictures of 6 × 6."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
                                  nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
                                  nn.Flatten(), nn.Linear(24, 12), nn.ReLU())
        self.head = nn.Linear(12, outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


def pictures(n: int, seed: int, name: str) -> Split:
    """n noisy pictures of four patterns, every eighth with a wrong label."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 4
    patterns = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(5))
    x = patterns[y] + torch.randn(n, 1, 6, 6, generator=rng)
    y = torch.where(torch.arange(n) % 8 == 7, (y + 1) % 4, y)
    return Split({"x": x, "y": y}, name)


@cache
def classes(forget: Where = Where(label=3)) -> Task:
    """64 pictures; a class goes, or 16 of any."""
    train, holdout = pictures(64, 0, "train"), pictures(48, 1, "holdout")
    recipe = Recipe(epochs=6, lr=1e-2, batch_size=16)

    def build(seed: int) -> nn.Module:
        return Eyes(4)

    torch.manual_seed(0)
    whole = Classification(build(0), {"retain": train, "holdout": holdout}, recipe, build)
    gone, kept = divide(train, forget)
    return Classification(tiny.trained(whole, train), {"forget": gone, "retain": kept, "holdout": holdout}, recipe, build)


@cache
def records() -> Task:
    """As `classes`, 16 records of any class are to be forgotten."""
    return classes(Where(count=16))


@cache
def numbers() -> Task:
    """64 pictures, each with a number to predict; those above 0.5 are to be forgotten."""
    def numbered(n: int, seed: int, name: str) -> Split:
        split = pictures(n, seed, name)
        return Split({"x": split.columns["x"], "y": split.columns["x"].flatten(1)[:, :9].mean(1) * 3}, name)

    train, holdout = numbered(64, 0, "train"), numbered(48, 1, "holdout")
    recipe = Recipe(epochs=6, lr=1e-2, batch_size=16)

    def build(seed: int) -> nn.Module:
        return Eyes(1)

    torch.manual_seed(0)
    whole = Regression(build(0), {"retain": train, "holdout": holdout}, recipe, build)
    gone, kept = divide(train, Where(query="y > 0.5"))
    return Regression(tiny.trained(whole, train), {"forget": gone, "retain": kept, "holdout": holdout}, recipe, build)


@cache
def fitted() -> Task:
    """A decision tree of scikit-learn; ten records are to go."""
    from sklearn.tree import DecisionTreeClassifier

    from lethe.models.fitted_classifier.open import fitted_classifier

    return fitted_classifier(lambda x, y, seed: DecisionTreeClassifier(max_features=2, random_state=seed % 2**31).fit(x, y),
                             tiny.blobs(120, 0, "train"), list(range(10)), tiny.blobs(60, 1, "holdout"))


FAMILIES: dict[Callable[[], Task], str] = {
    classes: "classification", records: "classification", numbers: "regression", tiny.lm: "lm", tiny.diffusion: "diffusion",
    fitted: "fitted_classifier", **{make: name for name, make in tiny.TASKS.items() if name not in tiny.BROAD}}
PROBLEMS: tuple[Callable[[], Task], ...] = tuple(FAMILIES)
