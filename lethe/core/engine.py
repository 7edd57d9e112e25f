"""What a family may use of the engine: the terms of an objective, and the loop that minimises them.

The engine itself is `lethe.train.loop.Loop`, which stands above this room; only its interface is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lethe.core.split import Batch, Split

Loss = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Term:
    """One part of the objective: the mean over a batch of `split` of `loss` [n], times `weight`.

    weight   a number, or a function of the share of the run that is done (0 to 1)
    every    the term takes part in every so many steps
    prepare  (batch, rng) -> batch, before anything else sees the batch; `task.relabel` draws new targets at every step
    coupled  the loss of an example depends on the rest of its batch (contrast, batch statistics): the batch is never cut,
             neither into pieces nor over processes. `loss` may then return a single number, []
    moves    names of the parameters that this term alone may move; None: all that move. For two players (a generator
             and its critic), each with a term of its own
    """

    split: Split
    loss: Loss
    weight: float | Callable[[float], float] = 1.0
    every: int = 1
    batch_size: int | None = None
    prepare: Callable[[Batch, torch.Generator], Batch] | None = None
    coupled: bool = False
    moves: frozenset[str] | None = None


class Engine(Protocol):
    """The loop of one run, as families know it."""

    @property
    def seed(self) -> int:
        """Of all random draws of this run."""

    @property
    def device(self) -> str:
        """Where the model and its batches are."""

    def generator(self, *purpose: object) -> torch.Generator:
        """A generator for one purpose of this run."""

    def minimise(self, model: nn.Module, terms: Mapping[str, Term], *args: Any, **options: Any) -> nn.Module:
        """Minimise the weighted sum of the terms in place; the options are those of `Loop.minimise`."""
