"""What is minimised (`Term`) and with what it is combined (`Modifiers`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lethe.core.split import Batch, Split
from lethe.train.modifiers import Average, Choice, Combine, Perturb, Weigh, Where, resolve

Loss = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Term:
    """One part of the objective: the mean over a batch of `split` of `loss` [n], times `weight`.

    weight   a number, or a function of the share of the run that is done (0 to 1)
    every    the term takes part in every so many steps
    prepare  (batch, rng) -> batch, before anything else sees the batch; `task.relabel` draws new targets at every step
    """

    split: Split
    loss: Loss
    weight: float | Callable[[float], float] = 1.0
    every: int = 1
    batch_size: int | None = None
    prepare: Callable[[Batch, torch.Generator], Batch] | None = None


@dataclass(init=False)
class Modifiers:
    """The four questions that any method can be combined with, and the weights of examples."""

    where: Where
    combine: Combine | None    # None: as the method says
    perturb: Perturb
    average: Average
    weigh: Weigh | None        # None: as the method says

    def __init__(self, where: Where | Choice = "all", combine: Combine | Choice | None = None, perturb: Perturb | Choice = "none",
                 average: Average | Choice = "last", weigh: Weigh | Choice | None = None) -> None:
        """Members, or their names, or {name: …, option: …}."""
        self.where = resolve("where", where)
        self.combine = None if combine is None else resolve("combine", combine)
        self.perturb = resolve("perturb", perturb)
        self.average = resolve("average", average)
        self.weigh = None if weigh is None else resolve("weigh", weigh)
