"""What a search may look at, and what is left for the final audit.

The forget set is divided in seeded halves. Of unseen data a search sees what its view hands out: the half of holdout that
methods may learn from. The audits use the rest, as after every method that took it.
"""

from __future__ import annotations

import numpy as np

from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.core.view import reserved

SMALL = 20   # forget examples below which both parts are the whole


def halves(forget: Split) -> tuple[Split, Split]:
    """(selection, final): seeded halves of the forget set; twice the whole where it is small."""
    if len(forget) < SMALL:
        return forget, forget
    order, half = numpy_generator(0, "selection part", "forget").permutation(len(forget)), len(forget) // 2
    return forget.subset(np.sort(order[:half]), "forget"), forget.subset(np.sort(order[half:]), "forget")


def other(task: Task) -> Split:
    """What the search looks at beside forget: the view's holdout, or at most 256 retained examples where there is none."""
    if task.has("holdout"):
        return task.holdout
    order = numpy_generator(0, "selection part", "retain").permutation(len(task.retain))[:256]
    return task.retain.subset(np.sort(order), "holdout")


def sought(task: Task) -> Task:
    """The task as a search sees it: the selection part of the forget set, the unseen data of methods, no test data."""
    unseen = None
    if task.has("holdout"):
        unseen = task.splits["reference"] if "reference" in task.splits else reserved(task.holdout)
    return task.replaced(forget=halves(task.forget)[0], holdout=unseen, reference=None, test=None)


def final(task: Task) -> Task:
    """The task as the audit sees it after a search: the forget set without the selection part."""
    return task.replaced(forget=halves(task.forget)[1])
