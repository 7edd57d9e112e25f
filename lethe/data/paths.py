"""Files of a data source: found or refused before anything is read, and decoded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lethe.core.files import atomic, file_hash
from lethe.core.user_files import exists, expanded, regular
from lethe.data.context import Context
from lethe.errors import NeedsUnmet


def existing(path: str | Path, option: str = "data.path") -> Path:
    """The path of a file or a folder, or DataError that proposes the nearest name beside it; a pipe is refused."""
    return regular(Path(path), option, folder=True)


def under_root(root: Path | None, path: str | Path) -> Path:
    """The path itself, or the one below the folder of data sets where only that exists."""
    found = expanded(Path(path))
    return root / path if root is not None and not exists(found) and exists(root / path) else found


def located(context: Context, path: str) -> Path:
    """The same of a file or a folder that must exist."""
    return existing(under_root(context.data_root, path))


def from_root(context: Context, given: str, usual: str) -> Path:
    """`given` if there is one, else `usual` below the folder of data sets."""
    if given:
        return existing(given)
    if context.data_root is None:
        raise NeedsUnmet(f"{Path(usual).name} is searched for in the folder of data sets, and none was named, so nothing "
                         "was read. Set data.path.")
    return existing(context.data_root / usual)


def cached(context: Context, source: Path, what: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array that `make` computes from `source`, kept as .npy in the cache folder under the file's digest."""
    place = context.cache / "data" / f"{source.stem}-{what}-{file_hash(source)[:16]}.npy"
    if place.exists():
        try:
            held: np.ndarray = np.load(place, allow_pickle=False)
            return held
        except (ValueError, EOFError):   # a damaged cache entry costs a decode, nothing else
            context.progress(f"{place} is damaged; made again")
    context.progress(f"decoding {source.name}, once")
    array = make()
    with atomic(place) as beside, open(beside, "wb") as handle:
        np.save(handle, array)
    return array
