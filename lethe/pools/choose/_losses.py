"""The training loss of every example: what several selectors use."""

from __future__ import annotations

from torch import Tensor, nn

from lethe.core.modules import evaluating
from lethe.core.passes import drawn, rows
from lethe.core.split import Split
from lethe.core.task import Task

BATCH = 256


def losses(task: Task, model: nn.Module, split: Split) -> Tensor:
    """The loss of every example alone, in eval mode, without augmentation.  -> [n] float64"""
    with evaluating(model):
        return rows(lambda batch: task.loss_alone(model, batch).double(), drawn(task, split, BATCH, ("losses",), sweep=True),
                    len(split))
