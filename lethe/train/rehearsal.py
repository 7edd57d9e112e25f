"""What a run would cost: every call planned, none carried out. The passes that a method makes beside its calls are made."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from lethe.core.operations import frozen
from lethe.core.outcome import Cost
from lethe.core.registry import Method
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.core.visiting import fetched
from lethe.train.loop import Loop, Modifiers, Settings
from lethe.train.order import batches_per_epoch
from lethe.train.run import Run

LIMIT = 2000   # training examples above which a seeded part of them stands for all: shares of a cost hardly change  [ours]


class Rehearsal(Loop):
    """A loop that counts the steps and the examples of every call and makes none of them."""

    def _carry_out(self, run: Run) -> None:
        self.cost.steps += run.total
        for name, term in run.terms.items():
            draws, split = math.ceil(run.total / term.every), term.split
            self.cost.examples += round(draws * len(split) / batches_per_epoch(split, run.size[name]))


def rehearsed(task: Task, record: Method, cfg: Any, settings: Settings, seams: Modifiers | None = None) -> Cost:
    """Steps and examples of a run of a method that the task can serve; raises what the method raises."""
    view = task.granted(record.needs, record.uses)
    loop = Rehearsal(view, replace(settings, distribution="none", tensorboard=False), seams or Modifiers())
    if view.has("original"):
        fetched(frozen(view), settings.device)
    record.run(cfg, view, loop)
    return loop.cost


def shrunk(task: Task, seed: int) -> Task:
    """The task with so few forgotten and retained examples, in the same proportion, that a rehearsal is quick."""
    known = {role: task.splits[role] for role in ("forget", "retain") if task.has(role)}
    share = LIMIT / max(LIMIT, sum(map(len, known.values())))
    if share == 1:
        return task
    parts: dict[str, Split | None] = {role: _part(split, share, seed) for role, split in known.items()}
    return task.replaced(None, **parts)


def shares(cost: Cost, whole: Cost) -> float:
    """A cost beside another: of steps and of examples the larger share."""
    return max(mine / all_ for mine, all_ in ((cost.steps, whole.steps), (cost.examples, whole.examples)) if all_)


def _part(split: Split, share: float, seed: int) -> Split:
    order = numpy_generator(seed, "rehearsal", split.name).permutation(len(split))
    return split.subset(np.sort(order[: max(2, round(share * len(split)))]), split.name)
