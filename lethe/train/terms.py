"""What an objective is combined with (`Modifiers`); its parts (`Term`) are in `core.engine`."""

from __future__ import annotations

from dataclasses import dataclass

from lethe.core.engine import Loss, Term
from lethe.train.modifiers import Choice, resolve
from lethe.train.modifiers.average import Average
from lethe.train.modifiers.combine import Combine
from lethe.train.modifiers.perturb import Perturb
from lethe.train.modifiers.weigh import Weigh
from lethe.train.modifiers.where import Where

__all__ = ["Loss", "Modifiers", "Term"]


@dataclass(init=False)
class Modifiers:
    """The four questions that any method can be combined with, and the weights of examples."""

    where: Where
    combine: Combine | None    # None: the method's choice
    perturb: Perturb
    average: Average
    weigh: Weigh | None        # None: the method's choice

    def __init__(self, where: Where | Choice = "all", combine: Combine | Choice | None = None, perturb: Perturb | Choice = "none",
                 average: Average | Choice = "last", weigh: Weigh | Choice | None = None) -> None:
        """Members, or their names, or {name: …, option: …}."""
        self.where = resolve("where", where)
        self.combine = None if combine is None else resolve("combine", combine)
        self.perturb = resolve("perturb", perturb)
        self.average = resolve("average", average)
        self.weigh = None if weigh is None else resolve("weigh", weigh)
