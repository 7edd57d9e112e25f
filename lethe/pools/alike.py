"""Which examples are like the forget set: by label, by range of targets."""

from __future__ import annotations

import numpy as np

from lethe.core.split import Split
from lethe.core.task import Task


def unseen(task: Task) -> np.ndarray:
    """Which holdout examples have a label that occurs in the forget set; all where examples have no labels.  [n] bool

    An attack that compares a forgotten class with holdout examples of other classes sees the class, not memory. Of real
    targets: those in the range of the forget set.
    """
    if valued(task):
        return in_range(task, task.holdout)
    if not labelled(task):
        return np.ones(len(task.holdout), dtype=bool)
    return np.isin(task.holdout.columns["y"].numpy(), task.forget.columns["y"].numpy())


def labelled(task: Task) -> bool:
    """Whether examples have class labels."""
    y = task.forget.columns.get("y")
    return y is not None and y.dim() == 1 and not y.is_floating_point()


def valued(task: Task) -> bool:
    """Whether examples have real targets y, [n] or [n, h]."""
    y = task.forget.columns.get("y")
    return y is not None and y.is_floating_point() and y.dim() <= 2


def in_range(task: Task, split: Split) -> np.ndarray:
    """Which examples have a target (a mean over the h) between the forget set's least and largest.  [n] bool"""
    known, asked = (part.columns["y"].flatten(1).mean(1) if part.columns["y"].dim() > 1 else part.columns["y"]
                    for part in (task.forget, split))
    return ((asked >= known.min()) & (asked <= known.max())).numpy()

