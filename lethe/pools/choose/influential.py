"""The examples that moved the model most: self-influence ∇ℓ_iᵀ(H + λ)⁻¹∇ℓ_i with EK-FAC, `memorised` without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lethe.core.config import Count, Positive, config
from lethe.core.passes import plain
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.errors import NeedsUnmet
from lethe.maths import influence as attribution
from lethe.pools.choose import Scored
from lethe.pools.choose._losses import BATCH

USES = frozenset({"nll", "outputs", "head"})   # of the family


@config
class Influential:
    """Options of `influential`."""

    count: Count                  # examples to choose
    damping: Positive = 0.1       # λ as a share of the mean eigenvalue                      [usual]


def score(cfg: Influential, task: Task, train: Split, allowed: np.ndarray, cache: Path | None) -> Scored:
    """EK-FAC self-influence at the original."""
    if not task.serves >= USES:
        raise NeedsUnmet(f"influential takes the curvature at the outputs of a model that ends in one head, which {task.family} "
                         "models do not; nothing was started. Use worst_case, memorised or duplicated.")
    model = task.original
    at = attribution.curvature(model, lambda: plain(train, BATCH), task.outputs, cfg.damping)
    return attribution.self_influence(model, at, len(train), plain(train, BATCH), task.nll).double().numpy(), {}
