"""What is to be forgotten: by index, id, label, column query, entity, text, a random share, a share of what was manipulated."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from lethe.core.config import Natural, build, config
from lethe.core.patterns import matching
from lethe.core.seeds import numpy_generator
from lethe.core.split import Rule, Split
from lethe.errors import DataError, EmptySplit, RequestError, WrongColumn, nearest


@config
class Where:
    """Which examples; all given conditions must hold. `fraction` or `count` then takes a seeded random part of them."""

    label: int | str | tuple[int | str, ...] | None = None   # class number(s), or name(s) of the column `class`
    index: tuple[int, ...] | None = None                  # positions in the source
    ids: tuple[str | int, ...] | None = None                  # record identifiers
    query: str | None = None                              # `column OP value [and …]`, OP one of == != < <= > >=
    entity: str | tuple[str, ...] | None = None           # value(s) of the column `entity` (or `author`)
    text: str | None = None                               # regular expression searched in every text column
    column: Mapping[str, Any] | None = None               # column -> value, or several of which one must fit
    poisoned: Annotated[float, Field(gt=0, le=1)] | None = None   # the identified share of what `data.poison` manipulated
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None   # random share of what matches
    count: Natural | None = None                          # random number of what matches
    seed: int = 0

    def mask(self, split: Split) -> np.ndarray:
        """[n] booleans: which examples of `split` are meant."""
        chosen = np.ones(len(split), dtype=bool)
        if self.label is not None:
            chosen &= label_mask(split, self.label if isinstance(self.label, tuple) else (self.label,))
        if self.index is not None:
            chosen &= position_mask(split, self.index)
        if self.ids is not None:
            chosen &= id_mask(split, [str(one) for one in self.ids])
        if self.entity is not None:
            chosen &= entity_mask(split, self.entities)
        if self.text is not None:
            chosen &= text_mask(split, self.text)
        for name, value in (self.column or {}).items():
            chosen &= column_mask(split, name, value)
        if self.query is not None:
            chosen &= query_mask(split, self.query)
        if self.poisoned is not None:
            chosen &= poisoned_mask(split, self.poisoned, self.seed)
        return self._part(chosen)

    @property
    def conditions(self) -> str:
        """What was given, as in a request: `label: 3, count: 2`."""
        return ", ".join(f"{one.name}: {given}" for one in fields(self) if (given := getattr(self, one.name)) != one.default)

    @property
    def entities(self) -> tuple[str, ...]:
        """The values of `entity`."""
        return (self.entity,) if isinstance(self.entity, str) else self.entity or ()

    @property
    def rule(self) -> Rule | None:
        """What of it other records can be asked, too; None where it only names records or classes."""
        if self.query is None and self.entity is None and self.text is None and not self.column:
            return None
        return Asked(Where(query=self.query, entity=self.entity, text=self.text, column=self.column))

    def _part(self, chosen: np.ndarray) -> np.ndarray:
        if self.fraction is None and self.count is None:
            return chosen
        places = np.flatnonzero(chosen)
        wanted = self.count if self.count is not None else round((self.fraction or 0) * len(places))
        if wanted > len(places):
            raise DataError(f"forget.count = {wanted} exceeds the {len(places)} matching examples. Request fewer.")
        picked = numpy_generator(self.seed, "forget").permutation(places)[:wanted]
        part = np.zeros_like(chosen)
        part[picked] = True
        return part


@dataclass(frozen=True)
class Asked:
    """A selection by what records are like, asked of other records: `Rule`."""

    where: Where

    def answered(self, split: Split) -> np.ndarray | None:
        """Which of them it would choose, [n] bool; None where they lack a column that it reads."""
        try:
            known = set(map(str, _entities(split))) if self.where.entity is not None else set()
            shared = tuple(value for value in self.where.entities if value in known)
            if self.where.entity is not None and not shared:
                return np.zeros(len(split), dtype=bool)
            return replace(self.where, entity=shared or None).mask(split)
        except WrongColumn:
            return None


def id_mask(split: Split, wanted: Sequence[str]) -> np.ndarray:
    """[n] booleans: the records of these ids; DataError for one that is not there."""
    unknown = sorted(set(wanted) - set(map(str, split.ids)))
    if unknown:
        close = nearest_id(unknown[0], split)
        raise DataError(f"id {unknown[0]!r} (and {len(unknown) - 1} more) is not in the data"
                        f"{f' (did you mean {close!r}?)' if close else ''}, so it cannot be forgotten. Check "
                        "forget.ids, or whether it was deleted before.")
    return np.isin(split.ids.astype(str), wanted)


def entity_mask(split: Split, wanted: Sequence[str]) -> np.ndarray:
    """[n] booleans: the records of these entities; EmptySplit for one that has none."""
    values = np.asarray([str(v) for v in _entities(split)])
    for value in wanted:
        if value not in values:
            raise EmptySplit(f"no example is of {value!r}{nearest(value, set(values.tolist()))}, so there is nothing to forget. "
                             "Correct forget.entity.")
    return np.isin(values, wanted)


def _entities(split: Split) -> Sequence[Any] | np.ndarray:
    """The column `entity` or `author`."""
    name = next((c for c in ("entity", "author") if c in split.meta), None)
    if name is None:
        raise WrongColumn("forget.entity needs a column 'entity' or 'author', which the data does not have. "
                          "Use forget.text or forget.column.")
    return split.meta[name]


def text_mask(split: Split, pattern: str) -> np.ndarray:
    """[n] booleans: the records with the pattern in any text column."""
    texts = [c for c, values in split.meta.items() if len(values) and isinstance(values[0], str)]
    if not texts:
        raise WrongColumn("forget.text needs a text column, which the data does not have.")
    rows = (str(split.meta[c][i]) for i in range(len(split)) for c in texts)
    found = np.array(matching(pattern, rows, "forget.text"), dtype=bool)
    return np.asarray(found.reshape(len(split), len(texts)).any(1))


def column_mask(split: Split, name: str, value: Any) -> np.ndarray:
    """[n] booleans: the records with this value, or one of these, in a column."""
    several = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(one, (list, tuple, Mapping)) for one in several):
        raise RequestError(f"forget.column.{name} = {value!r} is no value, so nothing was selected. Write one, or a list.")
    column = _flat(split, name)
    return np.asarray(np.array([np.asarray(column == one, dtype=bool) & np.ones(len(split), bool) for one in several]).any(0))


def nearest_id(name: str, split: Split) -> str:
    """The id of the split that is spelled most like `name`: its slashes, folder or case wrong, else by letters; '' for none."""
    known = split.ids.astype(str).tolist()
    plain = name.replace("\\", "/").removeprefix("./").casefold()
    last = plain.rpartition("/")[2]
    alike: tuple[Callable[[str], bool], ...] = (
        lambda one: one == plain, lambda one: one.endswith(f"/{plain}") or plain.endswith(f"/{one}"),
        lambda one: one.rpartition("/")[2] == last, lambda one: one.lstrip("0") == plain.lstrip("0"))
    for fits in alike:
        for one in known:
            if fits(one.casefold()):
                return str(one)
    close = difflib.get_close_matches(name, known[:20_000], n=1, cutoff=0.6)   # a millisecond for some hundred ids
    return close[0] if close else ""


OPERATORS = {"==": operator.eq, "!=": operator.ne, "<=": operator.le, ">=": operator.ge, "<": operator.lt,
             ">": operator.gt}


def label_mask(split: Split, labels: Sequence[int | str]) -> np.ndarray:
    """[n] booleans: which examples carry one of the labels, given as numbers (column y) or names (column `class`)."""
    numbers = _one_each(split.columns["y"].numpy(), "y", split) if "y" in split.columns else _flat(split, "y")
    chosen = np.zeros(len(split), dtype=bool)
    for label in labels:
        named = isinstance(label, str)
        present = _flat(split, "class").astype(str) if named else numbers
        found = present == label
        if not found.any():
            known = sorted(set(present.tolist()))
            close = nearest(label, known) if isinstance(label, str) else ""
            raise EmptySplit(f"no example has label {label}{close}, so there is nothing to forget. Labels: "
                             f"{', '.join(map(str, known[:20]))}.")
        if named and not (numbers[found] == numbers[found][0]).all():
            raise DataError(f"class {label!r} belongs to several label numbers, so column 'class' does not name the "
                            "labels. Select with forget.column, or provide the label's number.")
        chosen |= found
    return chosen


def poisoned_mask(split: Split, share: float, seed: int) -> np.ndarray:
    """[n] booleans: a seeded share of the examples in the column `manipulated`, at least one; larger shares contain smaller."""
    if "manipulated" not in split.meta:
        raise WrongColumn("forget.poisoned needs to know which examples were manipulated, and the data has no column "
                          "'manipulated'. Set data.poison, or select otherwise.")
    places = np.flatnonzero(np.asarray(split.meta["manipulated"], dtype=bool))
    found = numpy_generator(seed, "identified").permutation(places)[: max(1, round(share * len(places)))]
    return np.isin(np.arange(len(split)), found)


def query_mask(split: Split, query: str) -> np.ndarray:
    """[n] booleans for `column OP value [and column OP value …]`; text values may be quoted."""
    chosen = np.ones(len(split), dtype=bool)
    for part in re.split(r"\s+and\s+", query.strip()):
        found = re.fullmatch(r"(\w[\w.\- ]*?)\s*(==|!=|<=|>=|<|>)\s*(.+)", part.strip())
        if not found:
            raise RequestError(f"forget.query part {part!r} is not `column OP value`, so nothing can be selected. "
                               f"OP is one of {', '.join(OPERATORS)}; join parts with 'and'.")
        name, symbol, value = found.groups()
        chosen &= _compared(_flat(split, name), symbol, value.strip().strip("'\""), name)
    return chosen


READERS: dict[str, tuple[Callable[[str], Any], str, str]] = {   # kind of array -> how a value is read, words for both
    **dict.fromkeys("iufb", (float, "numeric column", "number")),
    "M": (np.datetime64, "column of dates", "date, as 2026-01-31"), "U": (str, "column", "text")}


def _compared(column: np.ndarray, symbol: str, value: str, name: str) -> np.ndarray:
    """[n] booleans: column OP value, as numbers or dates where the column holds such, else as text. What is missing differs
    from every value, and is neither above nor below it."""
    present = np.array([one is not None for one in column], dtype=bool) if column.dtype == object else np.ones(len(column), bool)
    held = column[present]
    if held.dtype == object:
        numbers = all(isinstance(one, (float, np.number)) or (isinstance(one, int) and abs(one) < 10**300) for one in held)
        held = held.astype(float) if numbers else np.array([str(one) for one in held], dtype=str)
    elif held.dtype.kind == "S":
        held = np.array([one.decode("utf-8", "replace") for one in held], dtype=str)
    if held.dtype.kind not in READERS:
        raise RequestError(f"forget.query cannot compare the column {name!r}, which holds {held.dtype}: neither numbers, dates "
                           "nor text, so nothing was selected. Name another column.")
    reader, kind, wish = READERS[held.dtype.kind]
    try:
        wanted = reader(value)
    except ValueError:
        raise RequestError(f"forget.query compares the {kind} {name!r} with {value!r}; provide a {wish}.") from None
    chosen = np.full(len(column), symbol == "!=")
    chosen[present] = OPERATORS[symbol](held, wanted)
    return chosen


def _flat(split: Split, name: str) -> np.ndarray:
    """[n] values of a column; WrongColumn for one that has more than one value for each example."""
    return _one_each(split.column(name), name, split)


def _one_each(values: Sequence[Any] | np.ndarray, name: str, split: Split) -> np.ndarray:
    try:
        column = np.asarray(values)
    except ValueError:   # lists of several lengths
        column = np.empty((0, 0))
    if column.ndim != 1:
        shape = f"shape {column.shape}" if column.size else "lists"
        raise WrongColumn(f"column {name!r} of {split.name} has {shape}, so it is not one value for each example and nothing can "
                          "be selected by it. Name another column, or the records: forget.ids.")
    return column


def where(**conditions: Any) -> Where:
    """`lethe.where(label=3)`, `where(fraction=0.1, seed=1)`, `where(query="age > 60 and sex == 'Female'")`."""
    return build(Where, conditions)


def position_mask(split: Split, index: np.ndarray | Sequence[int]) -> np.ndarray:
    """[n] booleans from positions, or from n booleans."""
    places, n = np.asarray(index), len(split)
    if places.dtype == bool and places.shape == (n,):
        return places
    if places.size and places.dtype.kind not in "iu":
        raise DataError(f"the forget selection holds {places.dtype} values of shape {places.shape}, so records cannot "
                        f"be identified. Pass positions 0…{n - 1}, or {n} booleans.")
    wrong = [i for i in places.reshape(-1).tolist() if not 0 <= i < n]
    if wrong:
        raise DataError(f"index {wrong[0]} is outside 0…{n - 1}, so the record does not exist. Check forget.index.")
    return np.isin(np.arange(n), places)


def divide(train: Split, forget: Where | Mapping[str, Any] | np.ndarray | Sequence[int]) -> tuple[Split, Split]:
    """(forget, retain) parts of a training set; an empty one is an error."""
    if isinstance(forget, Mapping):
        forget = build(Where, forget)
    mask = forget.mask(train) if isinstance(forget, Where) else position_mask(train, forget)
    if not mask.any():
        raise EmptySplit("the forget selection matches no example, so there is nothing to forget. Check the selection: "
                         f"{forget.conditions if isinstance(forget, Where) else 'index'}.")
    if mask.all():
        raise EmptySplit("the forget selection matches every example, so nothing would be retained. Narrow the "
                         "selection.")
    rule = forget.rule if isinstance(forget, Where) else None
    return train.subset(mask, "forget", rule), train.subset(~mask, "retain")
