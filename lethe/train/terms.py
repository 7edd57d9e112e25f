"""What is minimised (`Term`) and with what it is combined (`Modifiers`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.split import Batch, Split
from lethe.train.modifiers import resolve

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


@dataclass
class Modifiers:
    """The four questions that any method can be combined with, and the weights of examples."""

    where: Any = "all"
    combine: Any = None        # None: as the method says
    perturb: Any = "none"
    average: Any = "last"
    weigh: Any = None          # None: as the method says

    def __post_init__(self) -> None:
        for seam in ("where", "combine", "perturb", "average", "weigh"):
            value = getattr(self, seam)
            setattr(self, seam, None if value is None else resolve(seam, value))
