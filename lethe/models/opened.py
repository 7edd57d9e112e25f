"""What a family makes of a request's `model` and `data`, before anything is selected, trained or forgotten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from lethe.core.split import Split
from lethe.core.task import Recipe, Task


@dataclass
class Opened:
    """Splits, the model (None: the recipe trains it first) and how to make a Task of them.

    splits  `train`, which the forget selection divides, or `forget` and `retain`; `holdout`, `test` where there are
    task    (model, splits, name) -> Task of the family
    load    folder written by `Task.save_model` -> model
    """

    splits: dict[str, Split]
    task: Callable[[nn.Module, dict[str, Split], str], Task]
    load: Callable[[Path], nn.Module]
    model: nn.Module | None = None
    recipe: Recipe | None = None
    build: Callable[[int], nn.Module] | None = None
    unrepeatable: str = ""      # why training again without the forget set would not be exact; empty when it is
    facts: dict[str, Any] = field(default_factory=dict)
