"""What a family makes of a request's `model` and `data`, before anything is selected, trained or forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from lethe.core.concepts import selects
from lethe.core.modules import seeded
from lethe.core.split import Split
from lethe.core.task import Recipe, Task
from lethe.errors import RequestError

Make = Callable[[nn.Module], Task]     # model -> Task
Load = Callable[[str], nn.Module]      # path -> model


@dataclass(frozen=True)
class Sections:
    """What a family reads of a request: its own sections as they were written, and the recipe, which is checked already."""

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    recipe: Recipe | None = None


@dataclass(frozen=True)
class SavedFiles:
    """Models and data in files, without the request that made them.

    parts        path of forget and, where provided, of retain, holdout, test
    model, data  how the model files and the data files are read: options of the family
    original     path of the model from before, where it is there
    """

    unlearned: str
    parts: Mapping[str, str]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    allow_pickle: bool = False
    original: str | None = None


@dataclass
class Opened:
    """Splits, the model (None: the recipe trains it first) and how to make a Task of them.

    splits  `train`, which the forget selection divides, or `forget` and `retain`; `holdout`, `test` where there are
    task    (model, splits, name) -> Task of the family
    load    folder written by `Task.save_model`, or a file of weights -> model
    concepts  (what `forget` says of concepts) -> the same with these to be forgotten; None: the family knows none
    """

    splits: dict[str, Split]
    task: Callable[[nn.Module, dict[str, Split], str], Task]
    load: Callable[[Path], nn.Module]
    model: nn.Module | None = None
    recipe: Recipe | None = None
    build: Callable[[int], nn.Module] | None = None
    unrepeatable: str = ""      # why training again without the forget set would not be exact; empty when it is
    facts: dict[str, Any] = field(default_factory=dict)
    concepts: Callable[[Any], Opened] | None = None

    def of(self, selection: Any) -> Opened:
        """What is opened where a scenario forgets this: the same, unless it names concepts and the family knows what they are."""
        if not selects(selection):
            return self
        if self.concepts is None:
            raise RequestError("forget.concept names a concept in words, which this family cannot look for; nothing was started. "
                               "Choose records: forget: {text: …}, a pattern of their words, {entity: …}, {label: 3}, {ids: […]} "
                               "or {query: …}.")
        return self.concepts(selection)

    def fresh(self, seed: int) -> nn.Module:
        """A new model, the same for the same seed; RequestError when the request does not say how one is built."""
        if self.build is None:
            raise RequestError("the model came without weights and without a way to build it, so there is nothing to train. "
                               "Set model.code or model.zoo.")
        return seeded(self.build, seed)
