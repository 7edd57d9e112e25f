"""A Hugging Face data set as `save_to_disk` leaves it. Its Arrow files are read through pyarrow: no network, no code.

The parts of a DatasetDict are train, test, and holdout (or validation).
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lethe.core.config import Count, config
from lethe.core.extras import needs_extra
from lethe.core.split import NO_IDS, Split
from lethe.data import encode as encoding
from lethe.data.arrays import x_tensor
from lethe.data.context import Context
from lethe.data.paths import existing
from lethe.data.pictures import Colour, Transparent, opened, stacked
from lethe.data.sources.images import PARTS
from lethe.errors import DataError, EmptySplit, WrongColumn, nearest

LEARNS = True   # inputs are standardised or encoded by statistics of the whole training part


@config(name="data")
class Dataset:
    """Inputs from one column (images, arrays or numbers), or [n, d] from several columns of a table."""

    path: str                                        # the folder
    x: str | tuple[str, ...] = "image"               # input column; several: numbers standardised, text one-hot
    y: str = "label"                                 # column of the labels or targets
    target: Literal["class", "number"] = "class"     # number: regression
    id: str = ""                                     # column of record identifiers; empty: the row number
    size: Count | tuple[Count, Count] | None = None  # resize images to (height, width), or to a square
    colour: Colour = "auto"                          # auto: grey when every image is
    transparent: Transparent = "refuse"              # what transparent images stand on; ignore: colours as stored
    classes: tuple[str, ...] = ()                    # order of the class numbers for text labels


def read(cfg: Dataset, context: Context, name: str) -> dict[str, Split]:
    root = existing(cfg.path)
    if (root / "dataset_dict.json").exists():
        parts = json.loads((root / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        unknown = [part for part in parts if part not in PARTS]
        if unknown:
            raise DataError(f"{root} has a part {unknown[0]!r}, which is none of {', '.join(PARTS)}, so its use is not "
                            "clear. Save the data set with these names.")
        return {PARTS[part]: _part(cfg, root / part, PARTS[part]) for part in parts}
    if not (root / "state.json").exists():
        raise DataError(f"{root} has no state.json, so it is not a data set on disk. Make one with "
                        "dataset.save_to_disk(…).")
    return {name: _part(cfg, root, name)}


def encode(cfg: Dataset, splits: dict[str, Split]) -> dict[str, Split]:
    splits = encoding.targets(splits, cfg.y, cfg.target, cfg.classes)
    return splits if isinstance(cfg.x, str) else encoding.features(splits, cfg.x)


def _part(cfg: Dataset, folder: Path, name: str) -> Split:
    table = arrow(folder)
    if not table.num_rows:
        raise EmptySplit(f"{folder} has no rows, so there is nothing to work on. Provide a data set with rows.")
    inputs = (cfg.x,) if isinstance(cfg.x, str) else cfg.x
    for option, wanted in [*(("x", column) for column in inputs), ("y", cfg.y), ("id", cfg.id)]:
        if wanted and wanted not in table.column_names:
            raise WrongColumn(f"data.{option} = {wanted!r} is not a column of "
                              f"{folder.name}{nearest(wanted, table.column_names)}, so "
                              f"nothing was read. Columns: {', '.join(table.column_names)}.")
    meta: dict[str, Any] = {}
    for column in table.column_names:
        needed = {cfg.y} if isinstance(cfg.x, str) else {cfg.y, *inputs}
        if column in needed or _scalar(table.schema.field(column).type):
            values = table.column(column).to_pylist()
            meta[column] = [int(v) if isinstance(v, bool) else v for v in values]
    about = folder / "dataset_info.json"
    info = json.loads(about.read_text(encoding="utf-8")) if about.exists() else {}
    class_names = ((info.get("features") or {}).get(cfg.y) or {}).get("names")
    if class_names and "class" not in meta:
        meta["class"] = [class_names[k] if k is not None and 0 <= k < len(class_names) else "" for k in meta[cfg.y]]
    ids = np.array([str(v) for v in meta[cfg.id]]) if cfg.id else NO_IDS
    raw = encoding.rows(meta, name, ids)
    if not isinstance(cfg.x, str):
        return raw
    return encoding.with_column(raw, "x", _inputs(cfg, table.column(cfg.x), name))


def arrow(folder: Path) -> Any:
    """The table in the Arrow stream files that `state.json` lists."""
    try:
        import pyarrow
    except ImportError:
        raise needs_extra("data", str(folder), "pyarrow", "it was not read") from None
    tables = []
    for entry in json.loads((folder / "state.json").read_text(encoding="utf-8"))["_data_files"]:
        file = existing(folder / entry["filename"])
        try:
            with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_stream(source) as stream:
                tables.append(stream.read_all())
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise DataError(f"{file} cannot be read ({error}), so the data set is incomplete. Save it again.") from None
    return pyarrow.concat_tables(tables)


def _inputs(cfg: Dataset, column: Any, name: str) -> Any:
    import pyarrow

    if column.null_count:
        raise DataError(f"column {cfg.x!r} has {column.null_count} missing values in {name}, so these examples have no "
                        "input. Remove them.")
    if pyarrow.types.is_struct(column.type):
        images = column.to_pylist()
        if "bytes" not in images[0] or any(i["bytes"] is None for i in images):
            raise DataError(f"column {cfg.x!r} of {name} holds no image bytes, so there is nothing to decode. Save the "
                            "data set with its images embedded.")
        names = [f"{name} image {i}" for i in range(len(images))]
        size = (cfg.size, cfg.size) if isinstance(cfg.size, int) else cfg.size
        read = [partial(opened, image["bytes"], n, cfg.transparent) for image, n in zip(images, names, strict=True)]
        return stacked(read, names, size, cfg.colour)
    array, shape = pyarrow.concat_arrays(column.chunks), [len(column)]
    if isinstance(array, pyarrow.ExtensionArray):
        array = array.storage
    while hasattr(array, "flatten") and (pyarrow.types.is_list(array.type) or pyarrow.types.is_large_list(array.type)
                                         or pyarrow.types.is_fixed_size_list(array.type)):
        lengths = set(pyarrow.compute.list_value_length(array).to_pylist())
        if len(lengths) > 1:
            raise DataError(f"column {cfg.x!r} of {name} has rows of {len(lengths)} lengths ({min(lengths)} to "
                            f"{max(lengths)}), so they do not fit into one tensor. Pad or cut them.")
        array = array.flatten()
        shape.append(lengths.pop())
    values = array.to_numpy(zero_copy_only=False)
    return x_tensor(values.reshape(shape) if len(shape) > 1 else values.reshape(-1, 1), name)


def _scalar(kind: Any) -> bool:
    """Whether values of the type can be selected by."""
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_primitive(kind))
