"""A pickle or a file of `torch.save`: refused unless allowed, because loading it can run any code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lethe.core.config import config
from lethe.core.files import refuse_pickle
from lethe.core.split import Split
from lethe.data.arrays import as_split
from lethe.data.context import Context
from lethe.data.paths import existing
from lethe.errors import DataError

SUFFIXES = (".pkl", ".pickle", ".joblib", ".pt", ".pth")   # files that are read this way without data.kind


@config(name="data")
class Pickled:
    """A pickled (x, y), mapping of columns, or Dataset."""

    path: str                      # .pkl, .pickle, .pt, .pth
    x: str = "x"                   # name of the inputs in a mapping
    y: str = "y"                   # name of the labels in a mapping
    allow_pickle: bool = False     # load it although it can run code: only if you trust its origin


def read(cfg: Pickled, context: Context, name: str) -> dict[str, Split]:
    path = existing(cfg.path)
    refuse_pickle(path, "Convert it to .npz where it was made: numpy.savez('data.npz', x=x, y=y)",
                  cfg.allow_pickle or context.allow_pickle)
    held: Any = _torch(path) if path.suffix in (".pt", ".pth") else _pickle(path)
    data = dict(held) if isinstance(held, Mapping) else held
    return {name: as_split(data, name, cfg.x, cfg.y)}


def _torch(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True)
    except pickle.UnpicklingError:
        return torch.load(path, weights_only=False)


def _pickle(path: Path) -> Any:
    try:
        with open(path, "rb") as handle:
            return pickle.load(handle)
    except (pickle.UnpicklingError, EOFError) as error:
        raise DataError(f"{path} is no readable pickle ({error}), so there are no data. Write it again.") from None
