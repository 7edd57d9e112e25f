"""The entries with the largest |θ|, one global threshold; what a magnitude-pruned network would keep."""

from __future__ import annotations

from torch import nn

from lethe.core.config import Fraction, config
from lethe.core.task import Task
from lethe.maths.importance import largest
from lethe.train.modifiers.where import Draws, Selection


@config
class Magnitude:
    density: Fraction = 0.1     # share of entries that may move                        [Jia et al. 2023: 0.05–0.1]

    def select(self, model: nn.Module, task: Task, loop: Draws) -> Selection:
        params = task.trainable(model)
        return Selection(params, largest({name: p.detach().abs() for name, p in params.items()}, self.density))
