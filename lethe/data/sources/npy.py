"""Two .npy files: inputs and labels."""

from __future__ import annotations

import numpy as np

from lethe.core.config import config
from lethe.core.files import refuse_pickle
from lethe.core.split import Split
from lethe.core.trust import pickle_allowed
from lethe.data import arrays
from lethe.data.arrays import from_columns
from lethe.data.context import Context
from lethe.data.paths import existing
from lethe.data.sources.npz import Channels, channelled
from lethe.errors import DataError

SUFFIXES = (".npy",)   # files that are read this way without data.kind


@config(name="data")
class Npy:
    """Arrays x [n, …] and y [n] in files of their own."""

    x: str                         # file of the inputs
    y: str                         # file of the labels or targets
    channels: Channels = "first"   # where images keep them: first: unchanged, last [n, H, W, C], none [n, H, W]
    allow_pickle: bool = False     # open files that hold pickled objects, which can run code


def read(cfg: Npy, context: Context, name: str) -> dict[str, Split]:
    allowed = pickle_allowed(cfg.allow_pickle or context.allow_pickle)
    x, y = (_array(path, option, allowed) for path, option in ((cfg.x, "data.x"), (cfg.y, "data.y")))
    return {name: from_columns({"x": channelled(x, cfg.channels), "y": y}, name)}


def _array(path: str, option: str, allowed: bool) -> np.ndarray:
    place = existing(path, option)
    try:
        large = place.stat().st_size > arrays.LARGE   # copy on write: pages are read when they are needed
        values: np.ndarray = np.load(place, "c" if large else None, allow_pickle=allowed)
    except Exception as error:   # damaged headers raise anything
        if "allow_pickle" in str(error):
            refuse_pickle(place, "Store plain numbers in it (object arrays are pickles)", allowed)
        raise DataError(f"{place} cannot be read as .npy ({error}), so there are no data. Write it with "
                        "numpy.save.") from None
    return values
