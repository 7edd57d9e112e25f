"""What an objective is combined with (`Modifiers`), and how long it is minimised; its parts (`Term`) are in `core.engine`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from lethe.core.engine import Loss, Term
from lethe.errors import RequestError
from lethe.train.modifiers import Choice, resolve
from lethe.train.modifiers.average import Average
from lethe.train.modifiers.combine import Member
from lethe.train.modifiers.perturb import Perturb
from lethe.train.modifiers.weigh import Weigh
from lethe.train.modifiers.where import Where
from lethe.train.order import batches_per_epoch

__all__ = ["Loss", "Modifiers", "Term", "require_movable", "step_count"]


@dataclass(init=False)
class Modifiers:
    """The four questions that any method can be combined with, and the weights of examples."""

    where: Where
    combine: Member | None     # None: the method's choice
    perturb: Perturb
    average: Average
    weigh: Weigh | None        # None: the method's choice

    def __init__(self, where: Where | Choice = "all", combine: Member | Choice | None = None, perturb: Perturb | Choice = "none",
                 average: Average | Choice = "last", weigh: Weigh | Choice | None = None) -> None:
        """Members, or their names, or {name: …, option: …}."""
        self.where = resolve("where", where)
        self.combine = None if combine is None else resolve("combine", combine)
        self.perturb = resolve("perturb", perturb)
        self.average = resolve("average", average)
        self.weigh = None if weigh is None else resolve("weigh", weigh)


def step_count(terms: Mapping[str, Term], size: Mapping[str, int], over: str | None, epochs: float | None,
               steps: int | None) -> int:
    """`steps`, or the batches of `epochs` passes over the split of term `over` (default: the first)."""
    if steps is not None:
        return steps
    if epochs is None:
        raise ValueError("minimise needs epochs or steps; neither was given, so nothing would be trained")
    over = over or next(iter(terms))
    return math.ceil(epochs * batches_per_epoch(terms[over].split, size[over]))


def require_movable(terms: Mapping[str, Term], moving: Mapping[str, nn.Parameter]) -> None:
    """RequestError where a term moves nothing that this run lets move."""
    for name, term in terms.items():
        if term.moves is not None and not term.moves & moving.keys():
            named = ", ".join(sorted(term.moves)[:4]) or "nothing"
            raise RequestError(f"the term {name!r} may move {named}, and none of it moves in this run, so the term would be "
                               "without effect. Widen the `where` modifier.")
