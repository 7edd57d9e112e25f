"""The entries with |θ| < τ, which do least as they are: trained instead of adapters, they cost no place. Hu et al. 2024 (SaRA),
arXiv:2409.06633.

Deviations: the entries are chosen once, not anew half-way; no nuclear norm is added to the loss. A network that is pruned by
magnitude or quantised later loses what these entries hold.
"""

from __future__ import annotations

from torch import nn

from lethe.core.config import Positive, config
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.train.modifiers.where import Draws, Selection


@config
class Sara:
    threshold: Positive = 2e-3  # τ; entries below it may move                          [official code: 5e-4 to 2e-3]

    def select(self, model: nn.Module, task: Task, loop: Draws) -> Selection:
        params = task.trainable(model)
        masks = {name: p.detach().abs() < self.threshold for name, p in params.items()}
        if not any(bool(mask.any()) for mask in masks.values()):
            raise RequestError(f"where.threshold = {self.threshold:g}: no weight is that small, so nothing could move. Raise it; "
                               "where=magnitude chooses by a share instead.")
        return Selection(params, masks)
