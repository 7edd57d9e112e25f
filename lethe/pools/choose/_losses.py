"""The training loss of every example: what several selectors look at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.modules import evaluating
from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.core.task import Task

BATCH = 256


def losses(task: Task, model: nn.Module, split: Split) -> Tensor:
    """The family's training loss of every example, in eval mode, without augmentation.  -> [n] float64"""
    found = torch.zeros(len(split), dtype=torch.float64)
    with evaluating(model):
        for number, batch in enumerate(split.sweep(BATCH)):
            found[batch.index] = task.nll(model, task.draw(batch, generator(0, "losses", number), False)).double()
    return found
