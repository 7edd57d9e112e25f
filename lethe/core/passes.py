"""Passes over a split: its drawn batches, what a model makes of every example, and seeded samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from lethe.core.modules import device_of, evaluating
from lethe.core.seeds import generator
from lethe.core.split import Batch, Split
from lethe.core.task import Task


def plain(split: Split, size: int, *, device: torch.device | str = "cpu", sweep: bool = False) -> Iterator[Batch]:
    """Every example of a split once, as it is stored, on the device: for passes without random draws, or with draws of their own.

    sweep    cut batches as `Split.sweep` does, for results that do not depend on how examples are batched
    """
    for batch in split.sweep(size) if sweep else split.batches(size):
        yield batch.to(device)


def drawn(task: Task, split: Split, size: int, purpose: tuple[object, ...], *, seed: int = 0, device: torch.device | str = "cpu",
          train: bool = False, sweep: bool = False) -> Iterator[Batch]:
    """Every example of a split once, with its random draws, on the device.

    purpose  of the draws: batch k draws from `generator(seed, *purpose, k)`, so every model sees the same noise
    train    whether examples are augmented as in training
    sweep    cut batches as `Split.sweep` does, for results that do not depend on how examples are batched
    """
    for number, batch in enumerate(plain(split, size, sweep=sweep)):
        yield task.draw(batch, generator(seed, *purpose, number), train).to(device)


class Rows:
    """Results of batches at the places of their examples: [n, …] on the CPU, shorter sequences padded with zeros."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.found: Tensor | None = None

    def put(self, index: Tensor, values: Tensor) -> None:
        """The results [b, …] of the examples at these places [b]."""
        values = values.detach().cpu()
        if self.found is None:
            self.found = values.new_zeros((self.count, *values.shape[1:]))
        if values.dim() < 2:
            self.found[index] = values
            return
        width, longest = values.shape[1], self.found.shape[1]
        if width > longest:
            more = self.found.new_zeros((self.count, width - longest, *self.found.shape[2:]))
            self.found = torch.cat([self.found, more], 1)
        self.found[index, :width] = values

    def whole(self) -> Tensor:
        """All results in the order of the split."""
        assert self.found is not None, "a split has at least one example"
        return self.found


def rows(ask: Callable[[Batch], Tensor], batches: Iterable[Batch], count: int) -> Tensor:
    """`ask(batch)` [b, …] of every example, in the order of the split.  -> [n, …] on the CPU"""
    found = Rows(count)
    for batch in batches:
        found.put(batch.index, ask(batch))
    return found.whole()


def columns(ask: Callable[[Batch], Mapping[str, Tensor]], batches: Iterable[Batch], count: int) -> dict[str, Tensor]:
    """As `rows`, of several results at once: key -> [n, …]."""
    found: dict[str, Rows] = {}
    for batch in batches:
        for key, values in ask(batch).items():
            found.setdefault(key, Rows(count)).put(batch.index, values)
    return {key: result.whole() for key, result in found.items()}


def are_numbers(x: Tensor) -> bool:
    """Whether inputs are numbers as they stand: bytes of pictures are, tokens are not."""
    return x.is_floating_point() or x.dim() == 4


def inputs(task: Task, split: Split, features: bool = False) -> np.ndarray:
    """Inputs as rows of numbers; the original's features where they are asked for or inputs are no numbers.  -> [n, d]"""
    x = split.columns.get("x")
    if x is not None and are_numbers(x) and not features:
        return x.flatten(1).double().numpy()
    original = task.original
    with evaluating(original):
        batches = plain(split, 256, device=device_of(original))
        return rows(lambda batch: task.features(original, batch), batches, len(split)).double().numpy()


def sample(split: Split, limit: int, rng: np.random.Generator) -> Split:
    """A random sample of at most `limit` examples, in the split's order."""
    if len(split) <= limit:
        return split
    return split.subset(np.sort(rng.permutation(len(split))[:limit]), split.name)
