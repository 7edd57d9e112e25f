"""average: which point of the trajectory is returned? A member's `update(slow, params, step)` keeps the slow weights
(name -> tensor, part of the checkpoint) and `result` says whether to return them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lethe.core.config import Natural, config


@config
class Last:
    """The last point."""

    keeps: bool = False

    def update(self, slow: dict[str, Tensor], params: Mapping[str, Tensor], step: int) -> None:
        return None


@config
class Ema:
    """Exponential moving average of the weights, θ̄ ← βθ̄ + (1 − β)θ after every step, started at the first point."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99   # β; a horizon of 1/(1 − β) steps     [0.99–0.999 is usual]
    keeps: bool = True

    def update(self, slow: dict[str, Tensor], params: Mapping[str, Tensor], step: int) -> None:
        with torch.no_grad():
            for name, p in params.items():
                slow[name].lerp_(p.detach(), 1 - self.decay)


@config
class Swa:
    """Mean of the weights over the last part of the run. Izmailov et al. 2018, arXiv:1803.05407."""

    start: Natural = 0          # first step that enters the mean
    keeps: bool = True

    def update(self, slow: dict[str, Tensor], params: Mapping[str, Tensor], step: int) -> None:
        weight = 1.0 if step < self.start else 1.0 / (step - self.start + 1)
        with torch.no_grad():
            for name, p in params.items():
                slow[name].lerp_(p.detach(), weight)
