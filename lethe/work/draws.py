"""Requests like one: what a stream of them may ask for, drawn from the training data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lethe.core.alike import class_labels
from lethe.core.seeds import derive, numpy_generator
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.results.policy import Sort

SPREAD = 2.0   # drawn sizes lie between the size of the request divided by this and times this       [ours]
EQUALS = re.compile(r"\s*(\w[\w.\- ]*?)\s*==\s*[^<>=!]+")


@dataclass(frozen=True)
class Draw:
    """One drawn request: its name, which examples of the training data it names, and its seed."""

    name: str
    mask: np.ndarray   # [n] bool
    seed: int

    @property
    def size(self) -> int:
        return int(self.mask.sum())


def sort_of(selection: Any) -> tuple[Sort, str]:
    """What a request names, and the column of a group; RequestError for one like which none can be drawn."""
    asked = dict(selection) if isinstance(selection, Mapping) else {}
    part = {"fraction", "count", "seed"} & asked.keys()
    if asked.keys() == {"label"}:
        return "class", ""
    if asked and (asked.keys() <= {"fraction", "count", "seed", "ids", "index"}):
        return "records", ""
    if not part and len(asked.get("column") or {}) == 1 and len(asked) == 1:
        return "group", next(iter(asked["column"]))
    if asked.keys() == {"entity"}:
        return "group", "entity"
    if asked.keys() == {"query"} and (found := EQUALS.fullmatch(str(asked["query"]))) and " and " not in asked["query"]:
        return "group", found[1]
    raise RequestError(f"forget: {str(selection)[:80]} is no kind of request that others can be drawn like, so nothing was "
                       "calibrated. Write a class {label: 3}, records {count: 20} or {fraction: 0.1}, or a group "
                       "{column: {person: Ann}}.")


def drawn(train: Split, selection: Any, size: int, count: int, seed: int) -> list[Draw]:
    """`count` requests like a selection that names `size` examples. Classes and groups come round again with another seed.

    Records: sizes are spread evenly, on a logarithmic scale, between size / SPREAD and size · SPREAD.
    """
    sort, column = sort_of(selection)
    rng = numpy_generator(seed, "calibrate")
    if sort == "records":
        low, high = max(1, round(size / SPREAD)), min(len(train) // 2, round(size * SPREAD))
        sizes = np.exp(rng.uniform(np.log(low), np.log(high + 1), count)).astype(int).clip(low, high)
        places = [rng.permutation(len(train))[:many] for many in sizes]
        masks = [(f"records {i + 1}", np.isin(np.arange(len(train)), some)) for i, some in enumerate(places)]
    else:
        masks = _values(train, sort, column)
        masks = [masks[i] for i in rng.permutation(len(masks))]
    return [Draw(f"{masks[i % len(masks)][0]}{f' ({i // len(masks) + 1})' if i >= len(masks) else ''}", masks[i % len(masks)][1],
                 derive(seed, "calibrate", i)) for i in range(count)]


def _values(train: Split, sort: Sort, column: str) -> list[tuple[str, np.ndarray]]:
    """Each class, or each value of a column, and the examples that have it."""
    labels = class_labels(train) if sort == "class" else None
    if sort == "class" and labels is None:
        raise RequestError("the data have no classes, so no requests for classes can be drawn; nothing was calibrated.")
    name = next((one for one in ((column, "author") if column == "entity" else (column,)) if one in train.meta), column)
    if labels is None and name not in train.meta:
        raise RequestError(f"the data have no column {column!r}, so no groups can be drawn; nothing was calibrated. Columns: "
                           f"{', '.join(train.meta) or 'none'}.")
    values = labels.numpy() if labels is not None else np.asarray(train.meta[name]).astype(str)
    found = [(f"{'class' if sort == 'class' else name} {value}", values == value) for value in np.unique(values)]
    if len(found) < 2:
        raise RequestError(f"all records have one {'class' if sort == 'class' else column}, so there is nothing to draw.")
    return found
