"""The entries with the largest |Σ ∇ of the forget loss| at the original, one global threshold.

Fan et al. 2024 (SalUn), arXiv:2310.12508. Batch gradients are weighted by batch size, so that the mask does not
depend on a short last batch.
"""

from __future__ import annotations

from torch import nn

from lethe.core.config import Count, Fraction, config
from lethe.core.task import Task
from lethe.maths.importance import gradient_sum, largest
from lethe.train.modifiers.where import Draws, Selection


@config
class Saliency:
    density: Fraction = 0.5     # share of entries that may move                        [paper]
    batch_size: Count = 256     # examples per gradient [changes nothing: a sum]         [official code]

    def select(self, model: nn.Module, task: Task, loop: Draws) -> Selection:
        params = task.trainable(model)
        batches = loop.drawn(task.forget, self.batch_size, "saliency")
        scores = gradient_sum(model, params, batches, task.batch_loss)
        return Selection(params, largest({name: value.abs() for name, value in scores.items()}, self.density))
