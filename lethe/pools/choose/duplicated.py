"""The examples with a twin: what stays when only one of the two is deleted. Cosine of the centred features to the nearest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from lethe.core.config import Count, config
from lethe.core.modules import evaluating
from lethe.core.passes import drawn, rows
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.pools.choose import Scored
from lethe.pools.choose._losses import BATCH


@config
class Duplicated:
    """Options of `duplicated`."""

    count: Count                  # examples to choose


def score(cfg: Duplicated, task: Task, train: Split, allowed: np.ndarray, cache: Path | None) -> Scored:
    """Cosine to the nearest other example."""
    with evaluating(task.original):
        batches = drawn(task, train, BATCH, ("features",))
        x = rows(lambda batch: task.features(task.original, batch).float().flatten(1), batches, len(train))
    x = nn.functional.normalize(x - x.mean(0), dim=1)
    nearest = []
    for start in range(0, len(x), BATCH):
        cosine = x[start : start + BATCH] @ x.T
        cosine[torch.arange(len(cosine)), start + torch.arange(len(cosine))] = -2.0
        nearest.append(cosine.max(1).values)
    scores = torch.cat(nearest).double().numpy()
    return scores, {"cosine of the last chosen": round(float(np.sort(scores[allowed])[-cfg.count]), 4)}
