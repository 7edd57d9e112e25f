"""Returns the last point of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from lethe.core.config import config


@config
class Last:
    keeps: ClassVar[bool] = False

    def update(self, slow: dict[str, Tensor], params: Mapping[str, Tensor], step: int) -> None:
        return None
