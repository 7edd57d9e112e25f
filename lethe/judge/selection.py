"""What a search may look at, and what is left for the final audit: seeded halves of forget and holdout."""

from __future__ import annotations

import numpy as np

from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.core.task import Task

SMALL = 20   # forget examples below which both parts are the whole


def parts(task: Task) -> tuple[dict[str, Split], dict[str, Split]]:
    """(selection, final): seeded halves of forget and of holdout (of retain at most 256 where there is no holdout)."""
    first, last = {}, {}
    for name in ("forget", "holdout"):
        if not task.has(name):
            continue
        split: Split = getattr(task, name)
        order = numpy_generator(0, "selection part", name).permutation(len(split))
        half = len(split) // 2
        whole = len(task.forget) < SMALL
        first[name] = split if whole else split.subset(np.sort(order[:half]), name)
        last[name] = split if whole else split.subset(np.sort(order[half:]), name)
    if "holdout" not in first:
        order = numpy_generator(0, "selection part", "retain").permutation(len(task.retain))[:256]
        first["holdout"] = task.retain.subset(np.sort(order), "holdout")
    return first, last


def final(task: Task) -> Task:
    """The task as the audit sees it after a search: forget and holdout without the selection part."""
    return task.replaced(task._original, **parts(task)[1])
