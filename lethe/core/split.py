"""Examples in memory: `Split` (a named set of examples) and `Batch` (some of them, ready for the model)."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from lethe.core.store import Chosen, chosen, joined, taken
from lethe.errors import DataError, EmptySplit, WrongColumn, nearest

PIECE = 4 * 1024**2   # bytes of a column that are looked at together
SEVERAL = "x."        # beginning of the names of the input columns where there are several
NO_IDS = np.empty(0, dtype=str)   # of a split whose records have none of their own


class Rule(Protocol):
    """What chose the examples of a split, where other examples can be asked the same: `age > 75`, not a list of ids."""

    def answered(self, split: Split) -> np.ndarray | None:
        """Which examples of another split it would choose, [n] bool; None where they lack what it asks for."""


class Piece(NamedTuple):
    """Consecutive rows of a column, from position `start`."""

    start: int
    rows: Tensor


@dataclass
class Batch:
    """Some examples of a split. Columns are attributes: `batch.x`, `batch.y`; `batch.index` [n] is the position of each
    example in its split. `drawn`: the columns hold random draws (noise, augmentation), so that the original's
    outputs for them cannot be cached."""

    columns: dict[str, Tensor]
    index: Tensor
    drawn: bool = False

    def __getattr__(self, name: str) -> Tensor:
        try:
            column: Tensor = self.__dict__["columns"][name]
        except KeyError:
            raise AttributeError(f"batch has no column {name!r}; it has {', '.join(self.columns)}") from None
        return column

    def __len__(self) -> int:
        return len(self.index)

    def given(self) -> Tensor | dict[str, Tensor]:
        """What a model maps, pictures as floats in [0, 1]: `x`, or the inputs by name where there are several."""
        if "x" in self.columns:
            return pixels(self.columns["x"])
        return {key.removeprefix(SEVERAL): pixels(self.columns[key]) for key in input_columns(self.columns)}

    def replace(self, drawn: bool | None = None, **columns: Tensor) -> Batch:
        """The same examples with some columns replaced."""
        return Batch({**self.columns, **columns}, self.index, self.drawn if drawn is None else drawn)

    def to(self, device: torch.device | str) -> Batch:
        return Batch({k: v.to(device, non_blocking=True) for k, v in self.columns.items()}, self.index, self.drawn)

    def part(self, which: slice | Tensor) -> Batch:
        """Some of the examples."""
        return Batch({k: v[which] for k, v in self.columns.items()}, self.index[which], self.drawn)

    def pieces(self, count: int) -> Iterator[Batch]:
        """The batch cut into at most `count` consecutive pieces (gradient accumulation)."""
        width = max(1, -(-len(self) // count))
        for start in range(0, len(self), width):
            yield self.part(slice(start, start + width))


@dataclass(frozen=True, eq=False)
class Split:
    """A named, ordered set of examples.

    columns  tensors that share their first dimension n
    ids      n stable identifiers of the records (what a deletion request names); `name:position` where none are given
    meta     further columns that only selectors and reports read: strings, dates, entities
    padding  column -> pad value, for sequence columns [n, T]; batches are cut to their longest example, `length` [n]
    rule     what chose these examples, where that is a question; None: all of a source, ids, positions, a random part
    """

    columns: Mapping[str, Tensor]
    name: str = "train"
    ids: np.ndarray = field(default_factory=lambda: NO_IDS)
    meta: Mapping[str, Sequence[Any] | np.ndarray] = field(default_factory=dict)
    padding: Mapping[str, int] = field(default_factory=dict)
    rule: Rule | None = None
    numbered: bool = field(init=False, default=False)   # whether the ids were made from name and position

    def __post_init__(self) -> None:
        lengths = {key: self.shape(key)[0] for key in self.columns}
        lengths |= {key: len(value) for key, value in self.meta.items()}
        if lengths and len(self.ids) == 0:
            object.__setattr__(self, "ids", positions(self.name, len(self)))
            object.__setattr__(self, "numbered", True)
        object.__setattr__(self, "ids", np.asarray(self.ids))
        lengths["ids"] = len(self.ids)
        if not self.columns or len(set(lengths.values())) != 1:
            raise DataError(f"columns of split {self.name!r} have lengths {lengths}, so it is not clear which values belong to "
                            "one example. Provide every column with the same length.")

    def __len__(self) -> int:
        return self.shape(next(iter(self.columns)))[0]

    def shape(self, column: str) -> tuple[int, ...]:
        """Shape of a column; a large one is not read for it."""
        columns = self.columns
        return columns.shape(column) if isinstance(columns, Chosen) else tuple(columns[column].shape)

    def pending(self, column: str) -> bool:
        """Whether the column is yet to be made, which reading it does."""
        return isinstance(self.columns, Chosen) and self.columns.pending(column)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the columns that a model maps: `x`, or `x.image`, `x.age`; none where the family has others."""
        return input_columns(self.columns)

    def require_one_input(self, what: str) -> Split:
        """Itself; DataError where there are several inputs, for `what` that changes the one."""
        if self.inputs not in ((), ("x",)):
            raise DataError(f"{self.name} has the inputs {', '.join(self.inputs)}, and {what} is for data with one input, x, so "
                            "it is not clear which is meant; nothing was started. Leave it out, or do it in the model.")
        return self

    @property
    def lengths(self) -> Tensor | None:
        """[n] lengths of sequence examples, or None."""
        return self.columns["length"] if self.padding else None

    def batch(self, index: Tensor | Sequence[int]) -> Batch:
        """The examples at these positions."""
        index = torch.as_tensor(index, dtype=torch.long)
        columns = taken(self.columns, index)
        if self.padding:
            longest = int(columns["length"].max())
            columns = {key: value[:, :longest] if key in self.padding else value for key, value in columns.items()}
        return Batch(columns, index)

    def batches(self, size: int) -> Iterator[Batch]:
        """All examples in order; sequences sorted by length, so that little is padding (`index` tells the place)."""
        order = torch.arange(len(self)) if self.lengths is None else torch.argsort(self.lengths, stable=True)
        for part in torch.split(order, size):
            yield self.batch(part)

    def sweep(self, size: int) -> Iterator[Batch]:
        """As `batches`, for passes whose result does not depend on how the examples are batched.

        A batch of sequences ends early, before one that is more than a quarter longer than its first.
        """
        if self.lengths is None:
            yield from self.batches(size)
        else:
            order = torch.argsort(self.lengths, stable=True)
            for part in torch.split(order, cuts(self.lengths[order].tolist(), size)):
                yield self.batch(part)

    def dataset(self) -> Examples:
        """The examples as a torch Dataset of (x, y), for a training of one's own."""
        return Examples(self)

    def subset(self, index: Tensor | np.ndarray | Sequence[int], name: str, rule: Rule | None = None) -> Split:
        """The examples at these positions, as a split of its own; rule: what chose them, default: what chose all of these."""
        index = np.asarray(index)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        where = torch.from_numpy(index)
        return Split(
            chosen(self.columns, where),
            name,
            self.ids[index],
            {key: values[index] if isinstance(values, np.ndarray) else [values[i] for i in index.tolist()]
             for key, values in self.meta.items()},
            self.padding,
            self.rule if rule is None else rule,
        )

    def named(self, name: str) -> Split:
        """The same examples under another name: same data, ids and fingerprint."""
        if name == self.name:
            return self
        twin = copy.copy(self)
        object.__setattr__(twin, "name", name)
        return twin

    def renumbered(self) -> Split:
        """The same examples with ids made from the name and the position."""
        return Split(self.columns, self.name, meta=self.meta, padding=self.padding, rule=self.rule)

    def column(self, name: str) -> Sequence[Any] | np.ndarray:
        """A column of `columns`, `meta`, or the ids, by name."""
        if name == "id":
            return self.ids
        if name in self.meta:
            return self.meta[name]
        if name in self.columns:
            return self.columns[name].numpy()
        known = ["id", *self.meta, *self.columns]
        raise WrongColumn(f"there is no column {name!r} in {self.name!r}{nearest(name, known)}, so nothing can be "
                          f"selected by it. Columns: {', '.join(known)}.")

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over contents and ids (not the name)."""
        state = hashlib.sha256()
        for key in sorted(self.columns):
            if isinstance(self.columns, Chosen) and (origin := self.columns.origin(key)):
                state.update(f"{key}{self.shape(key)}{origin}".encode())
                continue
            for part in self.pieces(key):
                if not part.start:
                    state.update(f"{key}{part.rows.dtype}{self.shape(key)}".encode())
                state.update(part.rows.reshape(-1).view(torch.uint8).numpy().data)
        state.update("\x1f".join(map(str, self.ids)).encode())
        return state.hexdigest()[:16]

    def contents(self, size: int = 8) -> list[bytes]:
        """A digest of `size` bytes per example over its columns; equal ones mean equal examples, whatever they are padded to."""
        states = [hashlib.blake2b(digest_size=size) for _ in range(len(self))]
        for key in sorted(self.columns):
            for start, value in self.pieces(key):
                width = value[0].numel() * value.element_size() if len(value) else 0
                if not width:
                    continue
                data = value.reshape(-1).view(torch.uint8).numpy().data
                used = None
                if key in self.padding:
                    used = (self.columns["length"][start : start + len(value)] * (width // value.shape[1])).tolist()
                for i in range(len(value)):
                    states[start + i].update(data[i * width : i * width + (used[i] if used else width)])
        return [state.digest() for state in states]

    def pieces(self, key: str) -> Iterator[Piece]:
        """A column in consecutive pieces of a few megabytes, each contiguous; of an empty one the empty piece."""
        size = max(1, PIECE // (8 * math.prod(self.shape(key)[1:]) or 1))
        for start in range(0, max(len(self), 1), size):
            index = torch.arange(start, min(start + size, len(self)))
            rows = self.columns.rows(key, index) if isinstance(self.columns, Chosen) else self.columns[key][start : start + size]
            yield Piece(start, rows.contiguous())

    def require_examples(self, remedy: str) -> Split:
        """Itself, or EmptySplit with the remedy."""
        if not len(self):
            raise EmptySplit(f"the {self.name} set is empty, so there is nothing to work on. {remedy}")
        return self


class Examples(torch.utils.data.Dataset[tuple[Any, Tensor]]):
    """(x, y) of every example of a split, x as a model gets it: pictures as floats in [0, 1]; several inputs by name."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, place: int) -> tuple[Any, Tensor]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: list[int]) -> list[tuple[Any, Tensor]]:
        """Several at once, as a DataLoader asks for them."""
        batch = self.split.batch(places)
        given = batch.given()
        if isinstance(given, dict):
            return [({key: value[i] for key, value in given.items()}, batch.y[i]) for i in range(len(places))]
        return list(zip(given, batch.y, strict=True))


def positions(name: str, count: int) -> np.ndarray:
    """Ids of examples that have none of their own.  positions("train", 2) == ["train:0", "train:1"]"""
    return np.array([f"{name}:{i}" for i in range(count)], dtype=str)


def by_role(splits: Mapping[str, Split | None]) -> dict[str, Split]:
    """The splits of a task, each named by its role, whatever it was called before.

    Ids that were given stay: deletion requests name them. Ids that were only counted (`train:0`, `train:1`, …) are
    counted again by role where two splits were called alike, for there the same number means different records.
    """
    given = {role: split for role, split in splits.items() if split is not None}
    counted = [split for split in {id(split): split for split in given.values()}.values() if split.numbered]
    alike = {split.name for split in counted if sum(split.name == other.name for other in counted) > 1}
    named = {role: split.named(role) for role, split in given.items()}
    return {role: split.renumbered() if given[role].numbered and given[role].name in alike else split
            for role, split in named.items()}


def cuts(lengths: Sequence[int], size: int) -> list[int]:
    """Sizes of consecutive batches of sequences with these ascending lengths, see `Split.sweep`."""
    starts = [0]
    for place, length in enumerate(lengths):
        if place - starts[-1] == size or length > 1.25 * lengths[starts[-1]]:
            starts.append(place)
    return [end - start for start, end in zip(starts, [*starts[1:], len(lengths)], strict=True)]


def concat(splits: Sequence[Split], name: str) -> Split:
    """The examples of several splits, one after the other; sequence columns are padded to the longest.

    Of `meta` what all of them have.
    """
    first = splits[0]
    shared = None if first.padding else joined([split.columns for split in splits])
    columns: Any = shared or {}
    for key in first.columns if shared is None else ():
        parts = [split.columns[key] for split in splits]
        if key in first.padding:
            width = max(part.shape[1] for part in parts)
            parts = [
                torch.nn.functional.pad(part, (0, width - part.shape[1]), value=first.padding[key]) for part in parts
            ]
        columns[key] = torch.cat(parts)
    common = [key for key in first.meta if all(key in split.meta for split in splits)]
    meta = {key: [value for split in splits for value in split.meta[key]] for key in common}
    return Split(columns, name, np.concatenate([split.ids for split in splits]), meta, first.padding)


def pixels(x: Tensor) -> Tensor:
    """Images stored as bytes become floats in [0, 1], as models see them; everything else passes."""
    return x.float().div(255) if x.dtype == torch.uint8 else x


def require_columns(name: str, split: Split, columns: Iterable[str], purpose: str) -> None:
    """WrongColumn where the split that a task calls `name` lacks one of these; `purpose` says who needs them and what for."""
    for column in columns:
        if column not in split.columns:
            raise WrongColumn(f"{name!r} has no column {column!r}; {purpose}")


def input_columns(columns: Iterable[str]) -> tuple[str, ...]:
    """Those of these columns that a model maps."""
    return tuple(key for key in columns if key == "x" or key.startswith(SEVERAL))
