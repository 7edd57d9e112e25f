"""The examples that stay right when they are forgotten: worst for anyone who wants them wrong, harmless for privacy.

The weights of a bi-level selection (`_bilevel`); equal ones are ordered by the loss of the last round. For privacy the worst
set is `memorised`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lethe.core.split import Split
from lethe.core.task import Task
from lethe.pools.choose import Scored
from lethe.pools.choose._bilevel import Bilevel, selected


def score(cfg: Bilevel, task: Task, train: Split, allowed: np.ndarray, cache: Path | None) -> Scored:
    """w after the last round."""
    return selected(cfg, task, train, allowed, sign=1.0)
