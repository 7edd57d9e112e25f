"""A table: .csv, .tsv (also .gz) or .parquet, one row per example.

Numbers are standardised with the mean and deviation of the training part, text becomes one input per category of the
training part. Every column, used as input or not, can be selected by.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np

from lethe.core.config import Count, config
from lethe.core.extras import needs_extra
from lethe.core.split import NO_IDS, SEVERAL, Split
from lethe.core.user_files import lines_of
from lethe.data import encode as encoding
from lethe.data.context import Context
from lethe.data.paths import located
from lethe.errors import DataError, EmptySplit, RequestError, WrongColumn, nearest

SUFFIXES = (".csv", ".tsv", ".parquet")   # files that are read this way without data.kind
LEARNS = True   # inputs are standardised or encoded by statistics of the whole training part


@config(name="data")
class Table:
    """Inputs [n, d] float32, targets [n]."""

    path: str                              # .csv, .tsv, .parquet
    label: str                             # the target column
    target: encoding.Target = "class"      # others are for regression; standard: standardised; log: of 1 + x, standardised
    features: tuple[str, ...] = ()         # input columns; empty: every column but label, id, part and drop
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)   # of a network with several: columns of each
    drop: tuple[str, ...] = ()             # columns that are not inputs
    categorical: tuple[str, ...] = ()      # numeric columns that stand for categories
    classes: tuple[str, ...] = ()          # order of the class numbers for text labels; empty: sorted labels of train
    id: str = ""                           # column of record identifiers; empty: the row number
    part: str = ""                         # column with the values train, test or holdout
    impute: bool = False                   # fill missing values: median of train, or a category of its own
    missing: tuple[str, ...] = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")   # texts that mean no value
    max_categories: Count = 200            # a text column with more is refused: each is one input


def read(cfg: Table, context: Context, name: str) -> dict[str, Split]:
    path = located(context, cfg.path)
    columns = parquet(path) if path.suffix == ".parquet" else separated(path, set(cfg.missing))
    for option in ("label", "id", "part"):
        wanted = getattr(cfg, option)
        if wanted and wanted not in columns:
            raise WrongColumn(f"data.{option} = {wanted!r} is not a column of {path.name}{nearest(wanted, columns)}, "
                              f"so nothing was read. Columns: {', '.join(columns)}.")
    ids = NO_IDS
    if cfg.id:
        ids = np.array([encoding.text_of(v) for v in columns[cfg.id]])
        if len(set(ids.tolist())) < len(ids):
            raise DataError(f"column {cfg.id!r} names {len(ids) - len(set(ids.tolist()))} rows twice, so a record "
                            "could not be identified by its id. Leave data.id out and select with forget.column.")
    whole = encoding.rows(columns, name, ids)
    if not cfg.part:
        return {name: whole}
    labels = np.array([encoding.text_of(v) for v in columns[cfg.part]])
    other = sorted(set(labels.tolist()) - {"train", "test", "holdout"})
    if other:
        raise DataError(f"column {cfg.part!r} holds {other[0]!r}, which is none of train, test, holdout, so the row "
                        "belongs nowhere. Correct it.")
    return {part: whole.subset(labels == part, part) for part in ("train", "holdout", "test") if (labels == part).any()}


def encode(cfg: Table, splits: dict[str, Split]) -> dict[str, Split]:
    left_out = {cfg.label, cfg.id, cfg.part, *cfg.drop}
    for column in (*cfg.drop, *cfg.categorical):
        encoding.known(column, splits, "data.drop" if column in cfg.drop else "data.categorical")
    if cfg.inputs and cfg.features:
        raise RequestError("data has features and inputs, so it is not clear what the model is given; nothing was read. Leave "
                           "features out.")
    names = cfg.features or [column for column in splits["train"].meta if column not in left_out]
    groups: dict[str, Sequence[str]] = {f"{SEVERAL}{name}": of for name, of in cfg.inputs.items()} or {"x": names}
    option = "inputs" if cfg.inputs else "features"
    for column, of in groups.items():
        if cfg.label in of:
            raise DataError(f"data.{option} contains the label {cfg.label!r}, so the model would read the answer. Leave it out.")
        if not of:
            raise DataError(f"data.{option} has no column for {column}, so the model would be given nothing. Name at least one.")
    splits = encoding.targets(splits, cfg.label, cfg.target, cfg.classes)   # before features: `class` is no input
    for column, of in groups.items():
        splits = encoding.features(splits, of, cfg.categorical, cfg.impute, cfg.max_categories, column)
    return splits


def separated(path: Path, missing: set[str]) -> dict[str, Any]:
    """Columns of a .csv or .tsv file: arrays where every value is a number, else lists of str or None."""
    separator = "\t" if ".tsv" in path.suffixes else ","
    lines = csv.reader(io.StringIO(lines_of(path, "data.path"), newline=""), delimiter=separator, strict=True)
    try:
        header = next(lines, [])
        body = [row for row in lines if row]
    except csv.Error as error:
        raise DataError(f"line {lines.line_num} of {path} cannot be read as a table ({error}), so there are no data. Correct "
                        "its quotes and separators.") from None
    if not body:
        raise EmptySplit(f"{path} has no rows below its header, so there is nothing to work on. Provide a table with "
                         "rows.")
    if len(set(header)) < len(header):
        twice = next(h for h in header if header.count(h) > 1)
        raise DataError(f"{path.name} has two columns named {twice!r}, so it is not clear which one is meant. Rename one.")
    for number, row in enumerate(body, 2):
        if len(row) != len(header):
            raise DataError(f"row {number} of {path.name} has {len(row)} values for {len(header)} columns, so they "
                            "cannot be assigned. Correct the row, or quote values that hold the separator.")
    return {name: _typed([value.strip() for value in column], missing)
            for name, column in zip(header, zip(*body, strict=True), strict=True)}


def parquet(path: Path) -> dict[str, Any]:
    """Columns of a .parquet file, as `separated` returns them."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise needs_extra("data", path.name, "pyarrow", "it was not read") from None
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet ({error}), so there are no data. Write it again.") from None
    if not table.num_rows:
        raise EmptySplit(f"{path} has no rows, so there is nothing to work on. Provide a table with rows.")
    columns: dict[str, Any] = {}
    for name in table.column_names:
        values = table.column(name).to_pylist()
        if all(v is None or isinstance(v, (int, float)) for v in values) and any(v is not None for v in values):
            columns[name] = _whole(np.array([np.nan if v is None else v for v in values], dtype=np.float64))
        else:
            columns[name] = [None if v is None else str(v) for v in values]
    return columns


def _typed(values: list[str], missing: set[str]) -> Any:
    gaps = [value in missing for value in values]
    try:
        present = ["nan" if gap else value for value, gap in zip(values, gaps, strict=True)]
        numbers = np.array(present).astype(np.float64)
    except ValueError:
        return [None if gap else value for value, gap in zip(values, gaps, strict=True)]
    return [None] * len(values) if all(gaps) else _whole(numbers)


def _whole(numbers: np.ndarray) -> np.ndarray:
    """int64 when every value is a whole number."""
    whole = np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all() and (abs(numbers) < 2**53).all()
    return numbers.astype(np.int64) if whole else numbers
