"""In turn: a forget set as several deletion requests, one after the other, by one method, each from the result of the one before.
The protocol of sustainability: Shi et al. (2024), MUSE, arXiv:2407.06460; of TOFU's sets, each of which holds the one before:
Maini et al. (2024), arXiv:2401.06121.

    F = S_1 ∪ … ∪ S_K in the order of the requests;   θ_k = U(θ_{k−1}, S_k, R ∪ S_{k+1} ∪ … ∪ S_K)

F forget set, R retain set, U a registered method with options of its own, θ_0 the original. S_k holds the records with the next
`sizes[k]` values of the column `by`; without the column, equal shares of F in its order. U knows of no request but its own: to
it θ_{k−1} is the original, and what later requests name is retained; of concepts (`by: concept`) prompts of later ones are kept
and those of earlier ones named no more. Against U once on all of F, the difference is the drift that requests one by one cost.
Needs:    forget, original; what U needs.     Updates: what U updates.     Cost: that of U on every S_k.
Limits:   one request for all of F is U alone.
Fails by: nothing guards what earlier requests forgot: U may bring it back while it retains R (audit all of F, as here). Damage
          adds up: of four of ten authors of TOFU NPO leaves a utility of 0.64 at once and of 0.25 in turn, where the original
          has 0.64, gradient ascent 0 both ways; SimNPO holds (`lethe bench tofu`, two originals). So it is of forget01, 05 and
          10 in turn, 2, 8 and 10 of 40 authors: NPO leaves 0.59 of 0.74, at once 0.74, SimNPO 0.74 and 0.76; in turn and at
          once both still give forgotten answers a probability of 0.10 to 0.18 (`lethe bench sequences`, one original).
Deviations: MUSE unlearns four folds by number; which weights may move (`where`) is decided once, on all of F.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Literal

import numpy as np

from lethe.core.config import Count, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.errors import OutOfRange
from lethe.train.apply import require
from lethe.train.inner import Named, Turn, known, settled, successive
from lethe.train.loop import Loop


@config
class InTurn:
    """Options of a sequence of requests."""

    each: Named = "grad_diff"          # U [e.g. gradient_ascent]                             [MUSE: any]
    parts: Count = 4                   # K, of equal shares [only with by='']                 [MUSE]
    by: str = ""                       # column of what requests name; empty: shares [e.g. author] [tested in test_in_turn] [MUSE]
    sizes: tuple[Count, ...] = ()      # values in each request; empty: one [tested in test_in_turn] [TOFU's authors: 2, 8, 10]
    order: Literal["ascending", "descending"] = "ascending"   # of the values [tested in test_in_turn] [TOFU: descending]


def requests(split: Split, cfg: InTurn) -> list[np.ndarray]:
    """Positions of the records of each request.  -> K arrays

    by a column 7, 7, 5, 9: [2], [0, 1], [3]; descending with sizes 1, 2: [3], [0, 1, 2]. Five records in two parts: 3 and 2.
    """
    if not cfg.by:
        if cfg.parts > len(split):
            raise OutOfRange(f"method.parts = {cfg.parts} requests, but {split.name} holds {len(split)} records, so some would "
                             "name none; nothing was started. Lower method.parts.")
        return np.array_split(np.arange(len(split)), cfg.parts)
    values = np.asarray(split.column(cfg.by))
    names = np.unique(values)[:: 1 if cfg.order == "ascending" else -1]
    sizes = cfg.sizes or (1,) * len(names)
    if sum(sizes) != len(names):
        raise OutOfRange(f"method.sizes = {list(sizes)} name {sum(sizes)} values of {cfg.by}, but {split.name} has {len(names)}, "
                         "so the requests would not be all of it; nothing was started. Let them sum to that number.")
    return [np.flatnonzero(np.isin(values, names[end - size : end])) for size, end in zip(sizes, accumulate(sizes), strict=True)]


def runnable(cfg: InTurn, task: Task) -> None:
    """What is wrong with a request, before any work."""
    require(task, *known("each", cfg.each))
    requests(task.forget, cfg)


@method(needs={"forget", "original", "retain?", "holdout?", "recipe?"}, uses={"divergence", "nll", "outputs"}, mechanism="search",
        check=runnable, instead={"retain": "each=gradient_ascent"})
def run(cfg: InTurn, task: Task, loop: Loop) -> Outcome:
    record, options = known("each", cfg.each)
    turns = [Turn(f"request {k}", record, options, task.forget.subset(part, "forget"))
             for k, part in enumerate(requests(task.forget, cfg), 1)]
    return successive(turns, task, loop, settled(task, loop))
