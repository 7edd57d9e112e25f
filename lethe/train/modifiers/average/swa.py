"""Mean of the weights over the last part of the run. Izmailov et al. 2018, arXiv:1803.05407."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from lethe.core.config import Natural, config


@config
class Swa:
    start: Natural = 0          # first step that enters the mean
    keeps: ClassVar[bool] = True

    def update(self, slow: dict[str, Tensor], params: Mapping[str, Tensor], step: int) -> None:
        weight = 1.0 if step < self.start else 1.0 / (step - self.start + 1)
        with torch.no_grad():
            for name, p in params.items():
                slow[name].lerp_(p.detach(), weight)
