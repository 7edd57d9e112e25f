"""Exponential moving average of the weights, θ̄ ← βθ̄ + (1 − β)θ after every step, started at the first point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lethe.core.config import config


@config
class Ema:
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99   # β; a horizon of 1/(1 − β) steps     [0.99–0.999 is usual]
    keeps: ClassVar[bool] = True

    def update(self, slow: dict[str, Tensor], params: Mapping[str, Tensor], step: int) -> None:
        with torch.no_grad():
            for name, p in params.items():
                slow[name].lerp_(p.detach(), 1 - self.decay)
