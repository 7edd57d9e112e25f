"""Passes over a split: what a model makes of every example, and seeded samples."""

from __future__ import annotations

import numpy as np

from lethe.core.modules import evaluating
from lethe.core.split import Split
from lethe.core.task import Task


def inputs(task: Task, split: Split, features: bool = False) -> np.ndarray:
    """Inputs as rows of numbers; the original's features where they are asked for or inputs are no numbers.  -> [n, d]"""
    x = split.columns.get("x")
    numbers = x is not None and (x.is_floating_point() or x.dim() == 4)   # bytes of pictures are, tokens are not
    if x is not None and numbers and not features:
        return x.flatten(1).double().numpy()
    with evaluating(task.original):
        return np.concatenate([task.features(task.original, batch).double().numpy() for batch in split.batches(256)])


def sample(split: Split, limit: int, rng: np.random.Generator) -> Split:
    """A random sample of at most `limit` examples, in the split's order."""
    if len(split) <= limit:
        return split
    return split.subset(np.sort(rng.permutation(len(split))[:limit]), split.name)
