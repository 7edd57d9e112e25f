"""The examples that only a model trained on them knows: the worst set for privacy.

E ℓ_i over models that were not trained on i, less E ℓ_i over those that were; models on complementary random halves.
Feldman & Zhang (2020), arXiv:2008.03703.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lethe.core.config import Count, config
from lethe.core.seeds import derive, numpy_generator
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.errors import NeedsUnmet
from lethe.pools.choose import Scored
from lethe.pools.choose._losses import losses
from lethe.pools.pool import train_pool


@config
class Memorised:
    """Options of `memorised`."""

    count: Count                  # examples to choose
    models: Count = 8             # trained on halves; an even number; more rank better      [ours]
    seed: int = 0


def score(cfg: Memorised, task: Task, train: Split, allowed: np.ndarray, cache: Path | None) -> Scored:
    """Mean loss of models that never saw the example, less that of models that did."""
    if not task.has("recipe"):
        raise NeedsUnmet("memorised trains models on halves of the data, and the task has no recipe, so nothing was started. "
                         "Provide recipe, or choose influential.")
    inside = halves(len(train), cfg.models, cfg.seed)
    pool = train_pool(task, split_of=lambda k: train.subset(inside[k], "half"), count=len(inside),
                      seed=derive(cfg.seed, "memorised"), cache=cache)
    loss = np.stack([losses(task, model, train).numpy() for model in pool.models])
    return np.where(inside, 0, loss).sum(0) / (~inside).sum(0) - np.where(inside, loss, 0).sum(0) / inside.sum(0), {
        "models": len(inside)}


def halves(n: int, count: int, seed: int) -> np.ndarray:
    """Random halves, every second one the complement of the one before, so that each example is in half of them.  [count, n]"""
    rows = []
    for pair in range(-(-count // 2)):
        order = numpy_generator(seed, "halves", pair).permutation(n)
        half = np.isin(np.arange(n), order[: n // 2])
        rows += [half, ~half]
    return np.stack(rows)
