"""Steps that a test works out for itself: a tiny problem, plain torch, and no function of the method under test.

    found = byhand.run("neggrad_plus", task, beta=0.7)
    wanted = byhand.steps(task, [lambda m: 0.7 * nll(m, task.retain) - 0.3 * nll(m, task.forget)])
    byhand.assert_same(task, found, wanted)
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import running
import torch
from torch import Tensor, nn

from lethe.core import catalogue
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.core.task import Recipe, Task
from lethe.models.classification.task import Classification
from lethe.train.order import Order

Objective = Callable[[Any], Tensor]

LR = 0.1
ONE_STEP = {"lr": LR, "epochs": 1, "batch_size": 100, "optimiser": "sgd", "weight_decay": 0.0, "clip": None}


class Net(nn.Module):
    """Four inputs, five hidden units, logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, classes)

    def features(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def classification(classes: int = 3, removed: bool = False) -> Classification:
    """Twelve random points to keep, six to forget, twenty unseen, and a random network: nothing is fitted, gradients are large.

    With two classes the other label is no matter of chance. removed: the last class stands in the forget set alone.
    """
    rng = torch.Generator().manual_seed(3)

    def split(n: int, labels: Tensor, name: str) -> Split:
        return Split({"x": torch.randn(n, 4, generator=rng), "y": labels}, name)

    kept = classes - removed
    forget = torch.full((6,), classes - 1) if removed else torch.arange(6) % classes
    splits = {"forget": split(6, forget, "forget"), "retain": split(12, torch.arange(12) % kept, "retain"),
              "holdout": split(20, torch.arange(20) % classes, "holdout")}

    def build(seed: int) -> nn.Module:
        return Net(classes)

    torch.manual_seed(1)
    recipe = Recipe(epochs=1, lr=LR, batch_size=100, optimiser="sgd", momentum=0.0)
    model = Net(classes)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    return Classification(model, splits, recipe, build)


def run(name: str, task: Task, **options: Any) -> nn.Module:
    """The model after one full-batch step of plain SGD, or as `options` say."""
    fields = {f.name for f in dataclasses.fields(catalogue.load("methods", name).config)}
    usual = {key: value for key, value in ONE_STEP.items() if key in fields}
    return running.run(name, task, **{**usual, **options}).model


def nll(model: nn.Module, split: Split, labels: Tensor | None = None) -> Tensor:
    """Mean cross-entropy, spelled out."""
    logits = model(split.columns["x"])
    y = split.columns["y"] if labels is None else labels
    return -(logits - logits.exp().sum(1, keepdim=True).log())[torch.arange(len(y)), y].mean()


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Mean of Σ p·log(p/q) over examples, from probabilities."""
    return torch.where(p > 0, p * (p.clamp(min=1e-30) / q).log(), torch.zeros_like(p)).sum(1).mean()


def soft(logits: Tensor, temperature: float = 1.0) -> Tensor:
    return torch.softmax(logits / temperature, 1)


def trainable(model: nn.Module) -> Any:
    return copy.deepcopy(model).requires_grad_(True)


def gradient(model: nn.Module, objective: Objective) -> dict[str, Tensor]:
    """∇ of the objective at the model's weights, zeros where it does not look."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(objective(model), list(named.values()), allow_unused=True)
    return {key: torch.zeros_like(p) if g is None else g for (key, p), g in zip(named.items(), found, strict=True)}


def stepped(model: nn.Module, objectives: Sequence[Objective], lr: float = LR, momentum: float = 0.9) -> Any:
    """A copy after one SGD step for each objective; the momentum is shared by all of them."""
    twin = trainable(model)
    velocity = {key: torch.zeros_like(p) for key, p in twin.named_parameters()}
    for objective in objectives:
        found = gradient(twin, objective)
        with torch.no_grad():
            for key, p in twin.named_parameters():
                velocity[key] = momentum * velocity[key] + found[key]
                p.sub_(lr * velocity[key])
    return twin


def steps(task: Task, objectives: Sequence[Objective], lr: float = LR, momentum: float = 0.9) -> Any:
    """`stepped`, from the task's original."""
    return stepped(task.original, objectives, lr, momentum)


def reseed(step: int = 0, call: int = 0, seed: int = 0) -> None:
    """Torch's own generator as the loop sets it before a step."""
    torch.manual_seed(derive(seed, "step", call, step, 0))


def order(split: Split, name: str, call: int = 0, seed: int = 0) -> Tensor:
    """The order in which the loop takes a whole split: what is drawn at random for a batch falls on its rows in turn."""
    return Order(split, len(split), seed, call, name).draw(0)


def drawn(name: str, step: int = 0, call: int = 0, seed: int = 0) -> torch.Generator:
    """The generator that the loop gives to `prepare` of a term."""
    return torch.Generator().manual_seed(derive(seed, "draw", call, name, step))


def assert_same(task: Task, found: nn.Module, wanted: nn.Module, atol: float = 2e-6) -> None:
    """The weights agree to rounding (a few steps of float32), and they did move."""
    largest = 0.0
    for key, p in wanted.named_parameters():
        now, aim = found.get_parameter(key).detach(), p.detach()
        assert torch.allclose(now, aim, atol=atol, rtol=1e-5), f"{key} differs by {float((now - aim).abs().max()):g}"
        largest = max(largest, float((p.detach() - task.original.get_parameter(key)).abs().max()))
    assert largest > 1000 * atol, "the step is too small to show anything"

