"""The general and classification methods on real digits: forget a class, and forget memorised wrong labels.

1344 digits of scikit-learn (8×8) train SmallCNN, 453 test it; 3 originals (seeds), 2 models retrained without the forget set.
JS is the mean Jensen–Shannon divergence (bits) of predictions on the forget set to the retrained models.
The margins were written down from published orderings and one search on these problems; they are means over the 3 seeds.
"""

from __future__ import annotations

from functools import cache
from statistics import mean, stdev
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import lethe
from lethe.core import catalogue
from lethe.core.modules import evaluating
from lethe.core.split import Split
from lethe.core.task import Recipe, Task
from lethe.data.select import divide, where
from lethe.maths.losses import jensen_shannon
from lethe.models.classification.task import Classification
from lethe.models.zoo import build

pytestmark = pytest.mark.slow

SEEDS, TRAIN, WRONG = 3, 1344, 134
RECIPES = {
    "class": Recipe(epochs=15, lr=2e-3, batch_size=64, schedule="onecycle"),
    "labels": Recipe(epochs=80, lr=2e-3, batch_size=64),   # long enough to memorise wrong labels: 99.8 % of them
}


class Problem(NamedTuple):
    tasks: list[Task]           # one per original
    retrained: list[nn.Module]


class Scores(NamedTuple):
    """Means over seeds, accuracies in per cent; `spread` is the standard deviation of js."""

    retain: float
    forget: float
    test: float
    js: float
    spread: float


def fresh(seed: int) -> nn.Module:
    return build("small_cnn")


def trained(split: Split, recipe: Recipe, seed: int) -> nn.Module:
    task = Classification(fresh(0), {"retain": split}, recipe, fresh)
    return run(task, "retrain", seed)


def run(task: Task, name: str, seed: int, **options: Any) -> nn.Module:
    return lethe.forget(task, name, seed=seed, progress=False, **options).model   # exactly as a user does


@cache
def problem(kind: str) -> Problem:
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32).div(16).view(-1, 1, 8, 8)[order]
    y = torch.tensor(digits)[order]
    test = Split({"x": x[TRAIN:], "y": y[TRAIN:]}, "test")
    if kind == "class":
        chosen, test = where(label=3), divide(test, where(label=3))[1]
        train = Split({"x": x[:TRAIN], "y": y[:TRAIN]}, "train")
    else:
        chosen = where(index=tuple(range(WRONG)))
        shift = torch.randint(1, 10, (WRONG,), generator=torch.Generator().manual_seed(1))
        labels = torch.cat([(y[:WRONG] + shift) % 10, y[WRONG:TRAIN]])
        train = Split({"x": x[:TRAIN], "y": labels}, "train")
    forget, retain = divide(train, chosen)
    recipe = RECIPES[kind]
    splits = {"forget": forget, "retain": retain, "test": test}
    tasks: list[Task] = [
        Classification(trained(train, recipe, seed), splits, recipe, fresh) for seed in range(SEEDS)
    ]
    return Problem(tasks, [trained(retain, recipe, 100 + i) for i in range(2)])


def logits(task: Task, model: nn.Module, split: Split) -> Tensor:
    with evaluating(model):
        return task.outputs(model, split.batch(range(len(split))))


def accuracy(task: Task, model: nn.Module, split: Split) -> float:
    return 100 * float((logits(task, model, split).argmax(1) == split.columns["y"]).float().mean())


def distance(task: Task, model: nn.Module, others: list[nn.Module]) -> float:
    said = logits(task, model, task.forget)
    return mean(float(jensen_shannon(logits(task, other, task.forget), said).mean()) for other in others)


def judged(kind: str, models: list[nn.Module]) -> Scores:
    tasks, retrained = problem(kind)
    pairs = list(zip(tasks, models, strict=True))
    accuracies = [mean(accuracy(t, m, t.splits[key]) for t, m in pairs) for key in ("retain", "forget", "test")]
    js = [distance(t, m, retrained) for t, m in pairs]
    return Scores(*accuracies, mean(js), stdev(js))


@cache
def scores(kind: str, name: str) -> Scores:
    """A method with its defaults on every original; 'original' is the untouched model."""
    tasks = problem(kind).tasks
    if name == "original":
        return judged(kind, [task.original for task in tasks])
    return judged(kind, [run(task, name, seed) for seed, task in enumerate(tasks)])


@cache
def retrained_test_accuracy(kind: str) -> float:
    tasks, retrained = problem(kind)
    return mean(accuracy(tasks[0], model, tasks[0].test) for model in retrained)


BOTH = pytest.mark.parametrize("kind", RECIPES)


@BOTH
def test_controls(kind: str) -> None:
    """The untouched model must look far from retraining, and a second retrained model near, or nothing here means anything."""
    tasks, (one, other) = problem(kind)
    untouched = scores(kind, "original")
    assert untouched.forget > 99 and untouched.js > 0.85
    assert distance(tasks[0], one, [other]) < 0.15   # measured 0.12 (class), 0.01 (labels)


def test_scrub_beats_random_labels_beat_finetune_on_a_class() -> None:
    scrub, random, finetune = (scores("class", name) for name in ("scrub", "random_label", "finetune"))
    assert scrub.js < random.js - 0.1 < finetune.js - 0.1
    assert scrub.forget <= 2 and scrub.retain >= 97 and scrub.test >= retrained_test_accuracy("class") - 3


def test_sfron_beats_salun_and_finetune_on_wrong_labels() -> None:
    sfron = scores("labels", "sfron")
    assert sfron.js < 0.1 < min(scores("labels", name).js for name in ("salun", "finetune", "random_label", "scrub"))
    assert sfron.retain >= 97 and sfron.test >= retrained_test_accuracy("labels") - 3


@BOTH
def test_l1_at_least_halves_the_distance_of_finetune(kind: str) -> None:
    sparse = scores(kind, "l1_sparse")
    assert sparse.js <= 0.5 * scores(kind, "finetune").js
    assert sparse.retain >= 97 and sparse.test >= retrained_test_accuracy(kind) - 3


@BOTH
def test_saliency_mask_costs_nothing_against_random_labels(kind: str) -> None:
    """An advantage is not claimed: on this network there is none. Labels drawn from all ten leave a tenth to chance."""
    assert scores(kind, "salun").js <= scores(kind, "random_label").js + 0.03
    assert scores(kind, "salun").forget <= 20   # measured 11 (class), 15 (labels)


@BOTH
@pytest.mark.parametrize("name", ["random_label", "salun"])
def test_random_labels_go_without_the_true_one(name: str, kind: str) -> None:
    """Published anchors on such a network: a class 100/0/98.4 at 0.38, wrong labels 100/16/94.2 at 0.31."""
    found = judged(kind, [run(task, name, seed, include_true=False) for seed, task in enumerate(problem(kind).tasks)])
    assert found.forget <= (2 if kind == "class" else 15) and found.retain >= 99
    assert found.test >= retrained_test_accuracy(kind) - 3 and found.js <= 0.43


@pytest.mark.parametrize("name", ["delete", "boundary_shrink"])
def test_forget_only_distillation_beats_random_labels_on_a_class(name: str) -> None:
    found = scores("class", name)
    assert found.js < scores("class", "random_label").js
    assert found.forget <= 2 and found.test >= retrained_test_accuracy("class") - 5


def test_ssd_removes_a_class() -> None:
    found = scores("class", "ssd")
    assert found.forget <= 2 and found.retain >= 94 and found.js < scores("class", "random_label").js


def test_ssd_ruins_the_model_on_scattered_labels_and_the_guard_prevents_it() -> None:
    """The known failure; should it ever vanish, the documentation must change."""
    with_it = lethe.forget(problem("labels").tasks[0], "ssd", watchdog=False, progress=False).model
    assert accuracy(problem("labels").tasks[0], with_it, problem("labels").tasks[0].retain) < 60
    task = problem("labels").tasks[0]
    watched = lethe.forget(task, "ssd", progress=False)
    assert watched.fall and watched.unchanged, "one step: the only sound point is the start"


def test_neggrad_plus_forgets_wrong_labels() -> None:
    found = scores("labels", "neggrad_plus")
    assert found.js <= 0.5 * scores("labels", "finetune").js and found.retain >= 97


@BOTH
def test_bad_teacher_forgets_but_not_like_a_retrained_model(kind: str) -> None:
    found = scores(kind, "bad_teacher")
    assert found.forget < 40 and found.retain >= 95
    assert 0.3 < found.js < scores(kind, "original").js - 0.3


def test_gradient_ascent_removes_a_class_within_its_narrow_window() -> None:
    found = scores("class", "gradient_ascent")
    assert found.forget < 20 and found.retain >= 95 and found.js < scores("class", "finetune").js


if __name__ == "__main__":   # the table behind the numbers in the docstrings
    torch.set_num_threads(1)
    for kind in RECIPES:
        for name in ("original", *catalogue.entries("methods")):
            if name == "original" or catalogue.entries("methods")[name].fits("classification"):
                print(kind, name, *(f"{value:.3f}" for value in scores(kind, name)), flush=True)
