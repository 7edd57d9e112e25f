"""Guard: a wrapper that answers instead of the model. The weights inside still know; whoever holds them can remove it."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lethe.core.catalogue import entries
from lethe.errors import ModelError

FOLDER = "guard"        # inside a saved outcome, beside the model
NAME = "guard.json"


class Guard(nn.Module, ABC):
    """A module that wraps `model` and answers instead of it wherever a family needs answers.

    Families call `forward` as they would call the model's; a guard of language models also has `generate`. What the guard
    does not define is an error and never passed on to the model, because that answer would be unguarded.
    A guard is defined in the file of its method, by which it is found when it is loaded.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def admitted(self, prompts: Sequence[str]) -> list[str]:
        """The prompts as the model inside reads them: a blacklist replaces what it refuses. Asked when pictures are drawn."""
        return list(prompts)

    def reading(self, encoder: nn.Module) -> AbstractContextManager[list[Tensor]] | None:
        """Inside, the pipeline's text encoder reads prompts as the guard lets it, and each of its passes appends which of them it
        read otherwise, [n] bool; None: as it always does. Asked when prompts are encoded for the model."""
        return None

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what the guard needs beside the model into an existing folder; nothing that runs code when it is read."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, model: nn.Module) -> Self:
        """The guard that `save` wrote, around this model."""


Setting = int | float | str | bool | list[str] | list[int]
TENSORS, SETTINGS = "tensors.safetensors", "settings.json"


class Parts(Guard):
    """A guard that is its parts: tensors and settings, each an attribute and an argument by which it is made again."""

    def __init__(self, model: nn.Module, **parts: Tensor | Setting) -> None:
        super().__init__(model)
        self._parts = tuple(parts)
        for name, part in parts.items():
            if isinstance(part, Tensor):
                self.register_buffer(name, part.detach().clone(), persistent=False)
            else:
                setattr(self, name, part)

    def tensors(self) -> dict[str, Tensor]:
        """Those of the parts that are tensors."""
        return {name: part for name in self._parts if isinstance(part := getattr(self, name), Tensor)}

    def settings(self) -> dict[str, Setting]:
        """The other parts."""
        return {name: part for name in self._parts if not isinstance(part := getattr(self, name), Tensor)}

    def save(self, folder: Path) -> None:
        save_file({name: part.contiguous().cpu() for name, part in self.tensors().items()}, folder / TENSORS)
        (folder / SETTINGS).write_text(json.dumps(self.settings()), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, model: nn.Module) -> Self:
        return cls(model, **load_file(folder / TENSORS), **json.loads((folder / SETTINGS).read_text(encoding="utf-8")))


def bare(model: nn.Module) -> nn.Module:
    """The weights: what is inside the guard, or the model itself."""
    return bare(model.model) if isinstance(model, Guard) else model


def save_guard(guard: Guard, folder: Path) -> None:
    """Write a guard into `folder/guard`, with the name of its class."""
    place = folder / FOLDER
    place.mkdir()
    (place / NAME).write_text(json.dumps({"module": type(guard).__module__, "class": type(guard).__qualname__}), encoding="utf-8")
    guard.save(place)


def as_served(folder: Path, model: nn.Module) -> nn.Module:
    """The guard saved in a folder around the model that was read from it; the model itself where there is none."""
    return load_guard(folder, model) or model


def load_guard(folder: Path, model: nn.Module) -> Guard | None:
    """The guard saved in `folder/guard` around `model`; None when there is none.

    Only classes in the files of known methods are loaded: the name in the folder never decides what is imported.
    Raises ModelError when the folder names anything else.
    """
    place = folder / FOLDER
    if not (place / NAME).exists():
        return None
    named = json.loads((place / NAME).read_text(encoding="utf-8"))
    known = {entry.module for entry in entries("methods").values()}
    if named["module"] not in known:
        raise ModelError(f"{place} holds a guard of {named['module']}, which is no installed method, so what answers cannot be "
                         "rebuilt and an audit would judge something else. Install the package that made it.")
    found = getattr(importlib.import_module(named["module"]), named["class"], None)
    if not (isinstance(found, type) and issubclass(found, Guard)):
        raise ModelError(f"{place} names {named['module']}.{named['class']}, which is no guard, so what answers there cannot be "
                         "rebuilt. Save the outcome again with this version of the method.")
    return found.load(place, model)
