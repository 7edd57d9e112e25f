"""Every trainable parameter."""

from __future__ import annotations

from torch import nn

from lethe.core.config import config
from lethe.core.task import Task
from lethe.train.modifiers.where import Draws, Selection


@config
class All:
    def select(self, model: nn.Module, task: Task, loop: Draws) -> Selection:
        return Selection(task.trainable(model))
