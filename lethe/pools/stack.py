"""Many small models of one architecture trained at once: weights stacked to [N, …], `torch.func.vmap` over the models.

Each model sees its own batches in its own order, and the optimiser works elementwise, so every model moves as it would
alone, up to rounding. On CPUs this gains for nets of linear layers; convolutions over stacked weights are slower than a loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lethe.core.seeds import derive, generator
from lethe.core.split import Batch, Split
from lethe.core.task import Task, recipe_options
from lethe.train import optimise
from lethe.train.order import Order, batches_per_epoch
from lethe.train.stop import Stop

LARGEST = 2 * 1024**3   # bytes of examples that are stacked for models with data of their own
LAYERS = (
    nn.Linear, nn.Identity, nn.Flatten, nn.Unflatten, nn.LayerNorm,
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus,
)


def why_no_vmap(task: Task, splits: Sequence[Split], device: str) -> str:
    """Empty when models of this task can be trained stacked."""
    if task.trains_itself():
        return "the family trains in its own way, not by the mean of one loss"
    fresh = task.build(0)
    layers = (*LAYERS, nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d) if torch.device(device).type == "cuda" else LAYERS
    for name, module in fresh.named_modules():
        if not list(module.children()) and not isinstance(module, layers):
            kind = type(module).__name__
            return (f"{name or 'the model'} is a {kind}, and only linear and activation layers gain on {device} "
                    "(strategy='processes' takes any)")
    if any(True for _ in fresh.buffers()):
        return "the model has buffers, which every model would have to update for itself"
    if any(split.padding for split in splits):
        return "sequences are cut to the longest of their batch, which differs between models"
    if len({len(split) for split in splits}) > 1:
        return "the models' training sets differ in size"
    return ""


class _Losses(nn.Module):
    """The family's training loss as a module, so that the weights inside can be replaced by stacked ones."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, columns: dict[str, Tensor], index: Tensor) -> Tensor:
        return self.task.nll(self.model, Batch(columns, index))


def _flipped(stacked: Tensor) -> Tensor:
    """Matrices [N, a, b] transposed in memory; the rest as it is.

    A linear layer's gradient comes out transposed: a parameter that lies so takes it without a copy.
    """
    return stacked.mT.contiguous() if stacked.ndim == 3 else stacked


class Stack:
    """N models in training by the recipe; `step(k)` moves all of them by one step."""

    def __init__(self, task: Task, splits: Sequence[Split], seeds: Sequence[int], device: str) -> None:
        self.task, self.splits, self.seeds, self.device = task, splits, seeds, device
        recipe, options = task.recipe, recipe_options(task.recipe)
        models = [task.build(derive(seed, "retrain")).train() for seed in seeds]
        self.shell = _Losses(task, models[0])
        names = [name for name, _ in models[0].named_parameters()]
        each = [dict(model.named_parameters()) for model in models]
        self.stored = {n: nn.Parameter(_flipped(torch.stack([p[n].detach() for p in each])).to(device)) for n in names}
        self.size = min(recipe.batch_size, len(splits[0]))
        self.total = math.ceil(recipe.epochs * batches_per_epoch(splits[0], self.size))
        self.orders = [Order(split, self.size, seed, 0, "train") for split, seed in zip(splits, seeds, strict=True)]
        self.augment = options["augment"]
        self.rate: Callable[[int], float] = lambda step: recipe.lr * optimise.factor(recipe.schedule, step, self.total)
        self.optimiser = optimise.optimiser(
            recipe.optimiser, self.stored, recipe.lr, recipe.weight_decay, recipe.momentum
        )
        self.one = all(split is splits[0] for split in splits)
        probe = splits[0].batch([0])
        self.data = self._gathered(splits) if task.draw(probe, generator(0), self.augment) is probe else None
        self._losses = vmap(lambda p, columns, index: functional_call(self.shell, p, (columns, index)))

    def weights(self) -> dict[str, Tensor]:
        """The parameters of all models as the architecture shapes them, [N, …] each."""
        return {name: p.mT if p.ndim == 3 else p for name, p in self.stored.items()}

    def losses(self, step: int) -> Tensor:
        """Training losses of all models on their own batches of this step.  -> [N, batch]"""
        columns, index = self._batches(step)
        losses: Tensor = self._losses({f"model.{name}": p for name, p in self.weights().items()}, columns, index)
        return losses

    def step(self, step: int) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step)
        self.optimiser.zero_grad()
        losses = self.losses(step)
        (1.0 / losses.shape[1] * losses.sum()).backward()
        self.optimiser.step()

    def train(self, stop: Stop) -> list[dict[str, Tensor]]:
        """All steps; the parameters of each model by name. Stopped, and nothing is kept, once `stop` is set."""
        for step in range(self.total):
            stop.check()
            self.step(step)
        return [{name: p.detach()[i] for name, p in self.weights().items()} for i in range(len(self.seeds))]

    def seconds_per_step(self, seconds: float) -> float:
        """Measured for about this long, after one step that pays for allocation. The stack is spoiled by it."""
        self.step(0)
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds or not done:
            self.step(done % self.total)
            done += 1
        if self.device != "cpu":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / done

    def disagreement(self) -> str:
        """Empty when the stacked losses equal each model's own; else why the stack must not be used."""
        try:
            with torch.no_grad():
                together = self.losses(0)
                columns, index = self._batches(0)
                for i in range(len(self.seeds)):
                    weights = {f"model.{name}": p[i] for name, p in self.weights().items()}
                    alone = functional_call(self.shell, weights, ({k: v[i] for k, v in columns.items()}, index[i]))
                    if not torch.allclose(together[i], alone, rtol=1e-4, atol=1e-5):
                        return "stacked losses differ from the models' own"
        except RuntimeError as error:   # randomness, or control flow that depends on data
            return f"vmap cannot follow the model ({str(error).splitlines()[0]})"
        return ""

    def _gathered(self, splits: Sequence[Split]) -> dict[str, Tensor] | None:
        """The examples of all models, [n, …] when they share one split, else [N, n, …] when that is not too large."""
        columns = splits[0].columns
        if self.one:
            return dict(columns)
        if len(splits) * sum(c.numel() * c.element_size() for c in columns.values()) > LARGEST:
            return None
        return {key: torch.stack([split.columns[key] for split in splits]) for key in columns}

    def _batches(self, step: int) -> tuple[dict[str, Tensor], Tensor]:
        index = torch.stack([order.draw(step) for order in self.orders])
        if self.data is not None:
            place: Any = index if self.one else (torch.arange(len(index)).unsqueeze(1), index)
            return {k: v[place].to(self.device) for k, v in self.data.items()}, index
        drawn = [
            self.task.draw(split.batch(i), generator(seed, "draw", 0, "train", step), self.augment)
            for split, i, seed in zip(self.splits, index, self.seeds, strict=True)
        ]
        return {k: torch.stack([b.columns[k] for b in drawn]).to(self.device) for k in drawn[0].columns}, index
