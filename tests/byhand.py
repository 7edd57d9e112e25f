"""Steps that a test works out for itself: a tiny problem, plain torch, and no function of the method under test.

    found = byhand.run("neggrad_plus", task, beta=0.7)
    wanted = byhand.steps(task, [lambda m: 0.7 * nll(m, task.retain) - 0.3 * nll(m, task.forget)])
    byhand.assert_same(task, found, wanted)
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core import catalogue
from lethe.core.outcome import Outcome
from lethe.core.seeds import derive, generator
from lethe.core.split import Split
from lethe.core.task import Recipe, Task
from lethe.models.classification.task import Classification
from lethe.models.diffusion.task import Diffusion
from lethe.models.regression.task import Regression
from lethe.train.apply import apply
from lethe.train.order import Order
from lethe.train.settings import Settings

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
        logits: Tensor = self.head(self.features(x))
        return logits


class Pictures(nn.Module):
    """Pictures of 4 by 4, a convolution of two channels that keeps their size, logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(32, classes)

    def features(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def classification(classes: int = 3, removed: bool = False, pictures: bool = False) -> Classification:
    """Twelve random points to keep, six to forget, twenty unseen, and a random network: nothing is fitted, gradients are large.

    With two classes the other label is no matter of chance. removed: the last class stands in the forget set alone.
    """
    rng = torch.Generator().manual_seed(3)
    shape, kind = ((1, 4, 4), Pictures) if pictures else ((4,), Net)

    def split(n: int, labels: Tensor, name: str) -> Split:
        return Split({"x": torch.randn(n, *shape, generator=rng), "y": labels}, name)

    kept = classes - removed
    forget = torch.full((6,), classes - 1) if removed else torch.arange(6) % classes
    splits = {"forget": split(6, forget, "forget"), "retain": split(12, torch.arange(12) % kept, "retain"),
              "holdout": split(20, torch.arange(20) % classes, "holdout")}

    def build(seed: int) -> nn.Module:
        return kind(classes)

    torch.manual_seed(1)
    recipe = Recipe(epochs=1, lr=LR, batch_size=100, optimiser="sgd", momentum=0.0)
    model = kind(classes)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    return Classification(model, splits, recipe, build)


def regression() -> Regression:
    """As `classification`, with one real target each."""
    rng = torch.Generator().manual_seed(4)

    def split(n: int, name: str) -> Split:   # two heaps of targets, so that a random one may lie outside their range
        y = torch.randn(n, generator=rng).sign() + torch.randn(n, generator=rng) / 10
        return Split({"x": torch.randn(n, 4, generator=rng), "y": y}, name)

    splits = {name: split(n, name) for name, n in (("forget", 6), ("retain", 12), ("holdout", 20))}

    def build(seed: int) -> nn.Module:
        return Net(1)

    torch.manual_seed(1)
    return Regression(Net(1), splits, Recipe(epochs=1, lr=LR, batch_size=100, optimiser="sgd", momentum=0.0), build)


@cache
def diffusion() -> Diffusion:
    """Sixteen pictures of coloured shapes and a UNet that has learned nothing; "disk" is to be forgotten."""
    from lethe.data.shapes import COLOURS, caption, captions, shapes
    from lethe.models.diffusion import small
    from lethe.models.diffusion.open import text_to_image

    torch.manual_seed(2)
    keep = [text for text in captions() if "disk" not in text]
    return text_to_image(small.pipeline(width=16), "disk", keep[:3], [caption(colour, "disk") for colour in COLOURS][:2],
                         keep[3:5], shapes(16), steps=2, guidance=1.0)


def known(task: Classification, count: int) -> Classification:
    """The task with what the original says as the labels of the first `count` forgotten examples: it is right about these."""
    columns = dict(task.forget.columns)
    said = task.original(columns["x"]).argmax(1)
    columns["y"] = torch.where(torch.arange(len(said)) < count, said, (said + 1) % task.class_count)
    made = task.replaced(task.original, forget=Split(columns, "forget"))
    assert isinstance(made, Classification)
    return made


def outcome(name: str, task: Task, seed: int = 0, **options: Any) -> Outcome:
    """What the method gives after one full-batch step of plain SGD, or as `options` say, by the call that every run takes."""
    record = catalogue.load("methods", name)
    fields = {f.name for f in dataclasses.fields(record.config)}
    usual = {key: value for key, value in ONE_STEP.items() if key in fields}
    return apply(task, record, record.config(**{**usual, **options}), Settings(seed=seed), watchdog=False)


def run(name: str, task: Task, **options: Any) -> nn.Module:
    """The model of `outcome`."""
    return outcome(name, task, **options).model


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """log Σ exp z − z_y of each example.  [n, K], [n] -> [n]"""
    return logits.exp().sum(1).log() - logits[torch.arange(len(y)), y]


def nll(model: nn.Module, split: Split, labels: Tensor | None = None) -> Tensor:
    """Mean cross-entropy, spelled out."""
    return cross_entropy(model(split.columns["x"]), split.columns["y"] if labels is None else labels).mean()


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Mean of Σ p·log(p/q) over examples, from probabilities."""
    return torch.where(p > 0, p * (p.clamp(min=1e-30) / q).log(), torch.zeros_like(p)).sum(1).mean()


def soft(logits: Tensor, temperature: float = 1.0) -> Tensor:
    return torch.softmax(logits / temperature, 1)


def trainable(model: nn.Module) -> Any:
    return copy.deepcopy(model).requires_grad_(True)


def relearnt(model: nn.Module, task: Any, looks: int) -> float:
    """Four of the eight forgotten answers are taught again by AdamW, with a look every five steps: the largest answer probability
    per token of the other four."""
    seen, others = task.forget.batch(range(4)), task.forget.batch(range(4, 8))
    pupil, best = trainable(model).eval(), 0.0
    optimiser = torch.optim.AdamW(pupil.parameters(), lr=1e-3)
    for _ in range(looks):
        for _ in range(5):
            optimiser.zero_grad()
            task.nll(pupil, seen).mean().backward()
            optimiser.step()
        with torch.no_grad():
            best = max(best, float(task.score(pupil, others).mean()))
    return best


def gradient(model: nn.Module, objective: Objective) -> dict[str, Tensor]:
    """∇ of the objective at the model's weights, zeros where it does not look."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(objective(model), list(named.values()), allow_unused=True)
    return {key: torch.zeros_like(p) if g is None else g for (key, p), g in zip(named.items(), found, strict=True)}


def stepped(model: nn.Module, objectives: Sequence[Objective], lr: float | Sequence[float] = LR, momentum: float = 0.9) -> Any:
    """A copy after one SGD step for each objective, of its own size where lr names several; the momentum is shared."""
    twin = trainable(model)
    velocity = {key: torch.zeros_like(p) for key, p in twin.named_parameters()}
    for size, objective in zip([lr] * len(objectives) if isinstance(lr, float) else lr, objectives, strict=True):
        found = gradient(twin, objective)
        with torch.no_grad():
            for key, p in twin.named_parameters():
                velocity[key] = momentum * velocity[key] + found[key]
                p.sub_(size * velocity[key])
    return twin


def steps(task: Task, objectives: Sequence[Objective], lr: float = LR, momentum: float = 0.9) -> Any:
    """`stepped`, from the task's original."""
    return stepped(task.original, objectives, lr, momentum)


def adam(
    model: nn.Module, objectives: Sequence[Objective], lr: float | Sequence[float] = LR, weight_decay: float = 0.0,
    only: str = "",
) -> Any:
    """As `stepped`, by Adam; weight_decay as AdamW takes it: θ ← (1 − lr·wd)·θ before the step.

    only  what stands in the names of the parameters that move
    """
    twin = trainable(model)
    taken = torch.optim.Adam(twin.parameters(), foreach=False)
    for size, objective in zip([lr] * len(objectives) if isinstance(lr, float) else lr, objectives, strict=True):
        found = gradient(twin, objective)
        for key, p in twin.named_parameters():
            p.grad = found[key] if only in key else None
            p.data.mul_(1 - size * weight_decay if only in key else 1)
        taken.param_groups[0]["lr"] = size
        taken.step()
    return twin


def reseed(step: int = 0, call: int = 0, seed: int = 0) -> None:
    """Torch's own generator as the loop sets it before a step."""
    torch.manual_seed(derive(seed, "step", call, step, 0))


def order(split: Split, name: str, call: int = 0, seed: int = 0, step: int = 0) -> Tensor:
    """The order in which a step takes a whole split: what is drawn at random for a batch falls on its rows in turn."""
    return Order(split, len(split), seed, call, name).draw(step)


def drawn(name: str, step: int = 0, call: int = 0, seed: int = 0) -> torch.Generator:
    """The generator that the loop gives to `prepare` of a term."""
    return torch.Generator().manual_seed(derive(seed, "draw", call, name, step))


def assert_same(task: Task, found: nn.Module, wanted: nn.Module, atol: float = 2e-6, adam: bool = False) -> None:
    """The weights agree to rounding (a few steps of float32), and they did move.

    adam  its first steps are as large where a gradient is nearly 0, and there rounding, which is the processor's, decides them:
          each change may differ by 1 % of its length
    """
    largest = 0.0
    for key, p in wanted.named_parameters():
        now, aim, start = found.get_parameter(key).detach(), p.detach(), task.original.get_parameter(key).detach()
        apart, moved = now - aim, (aim - start).norm()
        assert (adam and apart.norm() <= 0.01 * moved) or torch.allclose(now, aim, atol=atol, rtol=1e-5), (
            f"{key} differs by {float(apart.abs().max()):g}, {float(apart.norm() / moved):.2%} of its change")
        largest = max(largest, float((aim - start).abs().max()))
    assert largest > 100 * atol, "the step is too small to show anything"


def noised(task: Diffusion, split: Split, name: str, step: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows that a step of the term `name` takes, all of them, x_t and t as the loop draws them, and the noise in x_t."""
    rows, rng = order(split, name, step=step), drawn(name, step)
    image = split.columns["image"][rows]
    t = torch.randint(0, 1000, (len(rows),), generator=rng)
    noise = torch.randn(image.shape, generator=rng)
    level = task.alphas_cumprod[t].view(-1, 1, 1, 1)
    return rows, level.sqrt() * image + (1 - level).sqrt() * noise, t, noise


def said(model: Any, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """What a text-to-image network predicts."""
    predicted: Tensor = model(x, t, encoder_hidden_states=text)[0]
    return predicted


def apart(one: Tensor, other: Tensor) -> Tensor:
    """The mean squared difference."""
    return ((one - other) ** 2).mean()


def draws_alike(
    task: Diffusion, step: int, of: Callable[[nn.Module], nn.Module], band: tuple[float, float] = (0.0, 1.0)
) -> Objective:
    """E ‖ε(x_t, t, c) − ε'(x_t, t, ∅)‖² at the noise and the times of a step; ε' of the model that `of` says, constant."""
    rows, rng, columns = order(task.forget, "forget", step=step), drawn("forget", step), task.forget.columns
    t = torch.randint(0, 1000, (len(rows),), generator=rng)
    noise = torch.randn(columns["image"].shape, generator=rng)
    t = (1000 * band[0] + (band[1] - band[0]) * t).long()
    level = task.alphas_cumprod[t].view(-1, 1, 1, 1)
    x = level.sqrt() * columns["image"][rows] + (1 - level).sqrt() * noise
    text = task.text(columns["tokens"][rows])
    empty = task.text(task.tokens([""])).expand_as(text)

    def objective(m: Any) -> Tensor:
        with torch.no_grad():
            free = of(m)(x, t, encoder_hidden_states=empty)[0]
        loss: Tensor = ((m(x, t, encoder_hidden_states=text)[0] - free) ** 2).mean()
        return loss

    return objective


def drawn_for(*purpose: object, seed: int = 0) -> torch.Generator:
    """The generator that `loop.generator` gives a method for this purpose."""
    return generator(seed, *purpose)
