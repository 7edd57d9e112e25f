"""From columns of a table to tensors. Whatever is learned (means, deviations, medians, categories) comes from the
training part alone; holdout and test are only transformed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from lethe.core.split import NO_IDS, Split
from lethe.core.store import with_columns
from lethe.errors import DataError, LabelOutOfRange, NotFinite, WrongColumn, nearest

Target = Literal["class", "number", "standard", "log"]   # what is predicted: a class, or a number on one of three scales
Splits = dict[str, Split]
Values = Sequence[Any] | np.ndarray


@dataclass(frozen=True)
class Feature:
    """How one column becomes inputs: (value − mean) / deviation, or one input per category (unseen: none is set)."""

    name: str
    fill: Any                              # stands for a missing value when `impute`
    mean: float = 0.0
    deviation: float = 1.0
    categories: tuple[str, ...] | None = None


def rows(columns: dict[str, Any], name: str, ids: np.ndarray = NO_IDS) -> Split:
    """Raw columns as a split that `features` and `targets` turn into tensors; column `row` stands in for them.

    Numbers come as float64 or int64 with NaN for missing, text as lists of str or None.
    """
    n = len(next(iter(columns.values())))
    return Split({"row": torch.arange(n)}, name, ids, columns)


def known(column: str, splits: Splits, option: str) -> None:
    """WrongColumn, with the nearest name, when a part lacks the column."""
    for name, split in splits.items():
        if column not in split.meta:
            raise WrongColumn(f"{option} = {column!r} is not a column of {name}{nearest(column, split.meta)}, so "
                              f"nothing was read. Columns: {', '.join(split.meta)}.")


def number_array(values: Values) -> np.ndarray | None:
    """[n] float64 when the values are numbers (None becomes NaN), else None."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb":
        return values.astype(np.float64)
    if any(isinstance(value, str) for value in values):
        return None
    return np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)


def features(splits: Splits, names: Sequence[str], categorical: Sequence[str] = (), impute: bool = False,
             max_categories: int = 200, into: str = "x") -> Splits:
    """Column `into` [n, d] in the order of `names`: numbers standardised, text and `categorical` columns one-hot."""
    for name in names:
        known(name, splits, "feature")
        for part, split in splits.items():
            gaps = _missing(split.meta[name])
            if gaps.any() and not impute:
                raise DataError(f"column {name!r} has {int(gaps.sum())} missing values in {part} (first: id "
                                f"{split.ids[int(gaps.argmax())]}), so its inputs would be NaN. Leave it out with "
                                f"drop: [{name}], or set impute: true (numbers: training median; text: a category of "
                                "its own).")
    plan = [_fit(splits["train"].meta[name], name, name in categorical, max_categories) for name in names]
    return {part: with_column(split, into, torch.from_numpy(np.concatenate([_apply(f, split, part) for f in plan], 1)))
            for part, split in splits.items()}


def targets(splits: Splits, label: str, target: Target, classes: Sequence[str] = ()) -> Splits:
    """Column y: `number` is float32 unchanged, `standard` (x − mean)/deviation with those of train, `log` the same of
    log(1 + x), `class` class numbers.

    Whole numbers from 0 are class numbers; text is numbered in sorted order of the training labels, or in
    the order of `classes`.
    """
    known(label, splits, "label")
    for part, split in splits.items():
        gaps = _missing(split.meta[label])
        if gaps.any():
            raise DataError(f"label column {label!r} has {int(gaps.sum())} missing values in {part} (first: id "
                            f"{split.ids[int(gaps.argmax())]}), so these rows teach nothing. Remove them or label "
                            "them.")
    found = {part: number_array(split.meta[label]) for part, split in splits.items()}
    if target != "class":
        for part, values in found.items():
            if values is None:
                texts = [v for v in splits[part].meta[label] if isinstance(v, str)]
                raise DataError(f"label column {label!r} holds text such as {texts[0]!r} in {len(texts)} rows of "
                                f"{part}, so it is no regression target. Name a numeric column as label, or set "
                                "target: class.")
        scaled = {part: _scaled(np.asarray(found[part]), target, part, label) for part in splits}
        mean, deviation = (0.0, 1.0) if target == "number" else (scaled["train"].mean(), scaled["train"].std() or 1.0)
        return {part: with_column(split, "y", torch.from_numpy((scaled[part] - mean) / deviation).float())
                for part, split in splits.items()}
    if not classes and all(values is not None for values in found.values()):
        for part, values in found.items():
            assert values is not None
            odd = (values != np.floor(values)) | (values < 0)
            if odd.any():
                raise LabelOutOfRange(f"label {values[odd][0]:g} in column {label!r} of {part} is not a class number "
                                      "0, 1, …, so it has no output. Set classes: [...] (their order), or target: "
                                      "number for regression.")
        return {part: with_column(split, "y", torch.from_numpy(found[part]).long()) for part, split in splits.items()}
    text = {part: [text_of(v) for v in split.meta[label]] for part, split in splits.items()}
    order = {name: k for k, name in enumerate(map(str, classes) if classes else sorted(set(text["train"])))}
    numbered = {}
    for part, split in splits.items():
        unknown = sorted(set(text[part]) - set(order))
        if unknown:
            raise LabelOutOfRange(f"label {unknown[0]!r} of {part} is none of the {len(order)} known classes"
                                  f"{nearest(unknown[0], order)}, so it has no output. Correct it, or list all with "
                                  "classes: [...].")
        y = torch.tensor([order[v] for v in text[part]], dtype=torch.long)
        numbered[part] = with_column(split, "y", y, {} if "class" in split.meta else {"class": text[part]})
    return numbered


def _scaled(values: np.ndarray, target: str, part: str, label: str) -> np.ndarray:
    if target != "log":
        return values
    if (values < 0).any():
        raise DataError(f"label column {label!r} has {values.min():g} in {part}, and log(1 + x) is for numbers from 0. Set "
                        "target: standard.")
    scaled: np.ndarray = np.log1p(values)
    return scaled


def _fit(values: Values, name: str, categorical: bool, max_categories: int) -> Feature:
    numbers = None if categorical else number_array(values)
    if numbers is not None:
        present = numbers[~np.isnan(numbers)]
        if np.isinf(present).any():
            raise NotFinite(f"column {name!r} has {int(np.isinf(present).sum())} infinite values in train, so every "
                            "standardised input would be NaN. Remove or cap them.")
        if not len(present):
            raise DataError(f"column {name!r} has no value at all in train, so it cannot be standardised. Leave it "
                            f"out: drop: [{name}].")
        deviation = float(present.std())
        return Feature(name, float(np.median(present)), float(present.mean()), deviation if deviation > 0 else 1.0)
    found = sorted({text_of(v) for v in values})
    if len(found) > max_categories:
        raise DataError(f"text column {name!r} has {len(found)} different values, more than max_categories = "
                        f"{max_categories}, and each would be one input. Leave it out: drop: [{name}] (it can still be "
                        "selected by), or raise "
                        "max_categories.")
    return Feature(name, "", categories=tuple(found))


def _apply(feature: Feature, split: Split, part: str) -> np.ndarray:
    """[n, width] inputs of one column."""
    values = split.meta[feature.name]
    if feature.categories is not None:
        place = {name: k for k, name in enumerate(feature.categories)}
        block = np.zeros((len(split), len(place)), dtype=np.float32)
        where = np.array([place.get(text_of(v), -1) for v in values], dtype=np.int64)
        block[np.flatnonzero(where >= 0), where[where >= 0]] = 1
        return block
    numbers = number_array(values)
    if numbers is None:
        text = next(v for v in values if isinstance(v, str))
        raise DataError(f"column {feature.name!r} is numeric in train but holds {text!r} in {part}, so it cannot be "
                        "standardised. Correct it, or list the column under categorical.")
    numbers = np.where(np.isnan(numbers), feature.fill, numbers)
    return ((numbers - feature.mean) / feature.deviation)[:, None].astype(np.float32)


def _missing(values: Values) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb":
        return np.isnan(values)
    return np.array([value is None or value != value for value in values], dtype=bool)


def text_of(value: Any) -> str:
    """A value as text: whole numbers without a fraction, missing values empty."""
    if value is None or value != value:
        return ""
    whole = isinstance(value, (float, np.floating)) and float(value).is_integer()
    return str(int(value)) if whole else str(value)


def with_column(split: Split, column: str, values: torch.Tensor, meta: dict[str, Any] | None = None) -> Split:
    """The split with a column more, and without the stand-in `row`."""
    columns = with_columns(split.columns, {column: values}, ["row"])
    return replace(split, columns=columns, meta={**split.meta, **(meta or {})})
