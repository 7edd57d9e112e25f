"""A .npz archive of arrays: inputs, labels, and anything else of the same length to select by."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Literal
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from lethe.core.config import config
from lethe.core.files import refuse_pickle
from lethe.core.split import Split
from lethe.core.trust import pickle_allowed
from lethe.data import arrays
from lethe.data.arrays import from_columns
from lethe.data.context import Context
from lethe.data.paths import located
from lethe.errors import DataError, WrongColumn, nearest

Channels = Literal["first", "last", "none"]
SUFFIXES = (".npz",)   # files that are read this way without data.kind


@config(name="data")
class Npz:
    """Arrays x [n, …] and y [n] of one archive. Test data under other names: test: {x: x_test, y: y_test}."""

    path: str                      # the archive
    x: str | tuple[str, ...] = "x" # name of the inputs; several for a network of several inputs: [image, age]
    y: str = "y"                   # name of the labels or targets; '' where there are none (audits of files)
    ids: str = ""                  # name of an array of record identifiers
    channels: Channels = "first"   # where images keep them: first: unchanged, last [n, H, W, C], none [n, H, W]
    allow_pickle: bool = False     # open archives that hold pickled objects, which can run code


def read(cfg: Npz, context: Context, name: str) -> dict[str, Split]:
    archive = opened(located(context, cfg.path), cfg.allow_pickle or context.allow_pickle)
    inputs = [cfg.x] if isinstance(cfg.x, str) else list(cfg.x)
    for wanted in filter(None, (*inputs, cfg.y, cfg.ids)):
        if wanted not in archive:
            alone = wanted == cfg.ids and name != "train"
            unseen = f", or, as nothing is selected here, data.{name}: {{path: {Path(cfg.path).name}, ids: ''}}" if alone else ""
            raise WrongColumn(f"{Path(cfg.path).name} has no array {wanted!r}{nearest(wanted, archive)}, so nothing "
                              f"was read. Arrays: {', '.join(archive)}; name them with data.x, data.y and data.ids{unseen}.")
    first = archive[inputs[0]]
    for wanted in filter(None, (*inputs, cfg.y, cfg.ids)):
        if not archive[wanted].ndim or len(archive[wanted]) != len(first):
            raise DataError(f"array {wanted!r} of {Path(cfg.path).name} has shape {archive[wanted].shape} and {inputs[0]!r} has "
                            f"{first.shape}, so it is not clear which values belong to one example. Store one of each "
                            "for every example.")
    if cfg.ids:
        _require_ids(archive[cfg.ids], f"array {cfg.ids!r} of {Path(cfg.path).name}")
    n = len(first)
    columns: dict[str, Any] = {key: value for key, value in archive.items() if value.ndim == 1 and len(value) == n}
    for one in inputs:   # of several, those of the pictures
        columns[one] = channelled(archive[one], cfg.channels) if len(inputs) == 1 or archive[one].ndim > 2 else archive[one]
    if cfg.y:
        columns[cfg.y] = archive[cfg.y]
    if cfg.ids:
        columns["ids"] = columns.pop(cfg.ids)
    return {name: from_columns(columns, name, cfg.x, cfg.y)}


def _require_ids(ids: np.ndarray, what: str) -> None:
    """DataError unless every record has an identifier of its own."""
    if ids.ndim != 1:
        raise DataError(f"{what} has shape {ids.shape}, so records cannot be identified by it. Store one identifier for each.")
    some, counts = np.unique(ids.astype(str), return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{what} holds {str(some[counts.argmax()])!r} {counts.max()} times, so a deletion request for it would "
                        "be ambiguous. Make the identifiers unique, or leave data.ids out.")


def opened(path: Path, allow_pickle: bool) -> Mapping[str, np.ndarray]:
    """Every array of the archive, read once; a large one is mapped, unpacked first where it is compressed."""
    allow_pickle = pickle_allowed(allow_pickle)
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=allow_pickle) as archive:
            mapped = {key: values for key in archive.files if (values := _mapped(path, archive.zip, key)) is not None}
            return {key: mapped[key] if key in mapped else archive[key] for key in archive.files}
    except Exception as error:   # damaged headers and archives raise anything
        if "allow_pickle" in str(error):
            refuse_pickle(path, "Store plain numbers and text in it (object arrays are pickles)", allow_pickle)
        raise DataError(f"{path} cannot be read as .npz ({error}), so there are no data. Write it with "
                        "numpy.savez.") from None


def _mapped(path: Path, archive: ZipFile, key: str) -> np.ndarray | None:
    """A large array as pages of the archive or of a file without a name, read when they are needed; None for any other."""
    found = [one for one in archive.infolist() if one.filename == f"{key}.npy" and one.file_size > arrays.LARGE]
    if not found:
        return None
    if found[0].compress_type != ZIP_STORED:
        with TemporaryFile(dir=arrays.SCRATCH) as unpacked, archive.open(found[0]) as packed:
            shutil.copyfileobj(packed, unpacked, 2**24)
            return _pages(unpacked, 0)
    with open(path, "rb") as handle:
        handle.seek(found[0].header_offset + 26)   # lengths of name and extra field, which the array follows
        name, extra = struct.unpack("<HH", handle.read(4))
        return _pages(handle, found[0].header_offset + 30 + name + extra)


def _pages(handle: IO[bytes], start: int) -> np.ndarray | None:
    """The .npy that begins there, mapped copy on write; None for objects, which are pickles."""
    handle.seek(start)
    version = np.lib.format.read_magic(handle)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(handle)
    if dtype.hasobject:
        return None
    return np.memmap(handle, dtype, "c", handle.tell(), shape, "F" if fortran else "C")


def channelled(x: np.ndarray, channels: Channels) -> np.ndarray:
    """Images with their channels first."""
    wanted = {"first": None, "last": 4, "none": 3}[channels]
    if wanted is not None and x.ndim != wanted:
        raise DataError(f"x has shape {x.shape}, but data.channels = {channels} means {wanted} dimensions, so images "
                        "cannot be recognised. Correct data.channels.")
    return x.transpose(0, 3, 1, 2) if channels == "last" else x[:, None] if channels == "none" else x
