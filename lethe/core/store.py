"""Columns of some rows of a store: splits are positions over one store, so that a split of a split copies no example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

SMALL = 64   # bytes of a row up to which a column is copied at once: labels are read whole all the time


class Later(Mapping[str, Tensor]):
    """Columns of which some are made when they are first read: pictures that a model draws.

    there   columns that exist already
    make    for each of the others, what makes it      shapes  and its shape
    origin  what their contents follow from, in words or digests: their fingerprint, whether they are made or not
    """

    def __init__(self, there: Mapping[str, Tensor], make: Mapping[str, Callable[[], Tensor]],
                 shapes: Mapping[str, tuple[int, ...]], origin: Callable[[], str]) -> None:
        self.made, self.make, self.shapes, self.origin = dict(there), dict(make), dict(shapes), origin

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.made:
            self.made[key] = self.make[key]()
        return self.made[key]

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys([*self.made, *self.make])

    def __len__(self) -> int:
        return len(list(iter(self)))


class Chosen(Mapping[str, Tensor]):
    """Rows `where` [n] of the stores; a column is gathered when it is read, and a batch takes only its own rows.

    stores  columns by name; several: one after the other, as if they were one
    own     columns that are there already, [n, …] each: the small ones
    """

    def __init__(self, stores: Sequence[Mapping[str, Tensor]], where: Tensor, own: Mapping[str, Tensor], names: Sequence[str]
                 ) -> None:
        self.stores, self.where, self.own, self.names = tuple(stores), where, dict(own), tuple(names)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, key: object) -> bool:
        return key in self.names

    def __getitem__(self, key: str) -> Tensor:
        return self.own[key] if key in self.own else self.rows(key, torch.arange(len(self.where)))

    def rows(self, key: str, index: Tensor) -> Tensor:
        """The rows at these positions of one column.  [b] -> [b, …]"""
        if key not in self.names:
            raise KeyError(key)
        if key in self.own:
            return self.own[key][index]
        at, first = self.where[index], self.stores[0][key]
        if len(self.stores) == 1:
            return first[at]
        found = first.new_empty((len(at), *first.shape[1:]))
        start = 0
        for store in self.stores:
            end = start + len(store[key])
            here = (at >= start) & (at < end)
            found[here] = store[key][at[here] - start]
            start = end
        return found

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a column, without reading it."""
        if key in self.own:
            return tuple(self.own[key].shape)
        store = self.stores[0]
        rest = store.shapes[key] if isinstance(store, Later) and key in store.shapes else store[key].shape
        return (len(self.where), *rest[1:])

    def pending(self, key: str) -> bool:
        """Whether reading it makes it."""
        return key not in self.own and any(isinstance(store, Later) and key not in store.made for store in self.stores)

    def origin(self, key: str) -> str:
        """What a column that is made later follows from; empty for any other."""
        if key in self.own or len(self.stores) != 1 or not isinstance(store := self.stores[0], Later) or key not in store.make:
            return ""
        return f"{store.origin()} {self.where.tolist()}"


def taken(columns: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """The rows of every column at these positions."""
    if isinstance(columns, Chosen):
        return {key: columns.rows(key, index) for key in columns}
    return {key: value[index] for key, value in columns.items()}


def chosen(columns: Mapping[str, Tensor], index: Tensor) -> Chosen:
    """The same rows as columns of their own, without a copy of what is large."""
    whole = _whole(columns)
    return Chosen(whole.stores, whole.where[index], {key: value[index] for key, value in whole.own.items()}, whole.names)


def with_columns(columns: Mapping[str, Tensor], new: Mapping[str, Tensor], without: Sequence[str] = ()) -> Mapping[str, Tensor]:
    """These columns and new ones, without some; what is large stays where it is."""
    if not isinstance(columns, Chosen):
        return {**{key: value for key, value in columns.items() if key not in without}, **new}
    names = [key for key in dict.fromkeys([*columns.names, *new]) if key in new or key not in without]
    return Chosen(columns.stores, columns.where, {**columns.own, **new}, names)


def joined(parts: Sequence[Mapping[str, Tensor]]) -> Chosen | None:
    """The rows of several, one after the other, without a copy of what is large; None where they do not fit together."""
    whole = [_whole(part) for part in parts]
    first = whole[0]
    large = [key for key in first.names if key not in first.own]
    stores: list[Mapping[str, Tensor]] = []
    places = []
    for part in whole:
        if set(part.names) != set(first.names) or set(part.own) != set(first.own) or any(
                part.stores[0][key].shape[1:] != first.stores[0][key].shape[1:] or part.stores[0][key].dtype
                != first.stores[0][key].dtype for key in large):
            return None
        offsets = []
        for store in part.stores:
            known = next((i for i, other in enumerate(stores) if other is store), None)
            if known is None:
                stores.append(store)
                known = len(stores) - 1
            offsets.append((sum(_length(one) for one in stores[:known]), _length(store)))
        moved, start = part.where.clone(), 0
        for offset, length in offsets:
            here = (part.where >= start) & (part.where < start + length)
            moved[here] = part.where[here] - start + offset
            start += length
        places.append(moved)
    own = {key: torch.cat([part.own[key] for part in whole]) for key in first.own}
    return Chosen(stores, torch.cat(places), own, first.names)


def _whole(columns: Mapping[str, Tensor]) -> Chosen:
    """All rows of one store; what is chosen already stays as it is."""
    if isinstance(columns, Chosen):
        return columns
    own = {key: value for key, value in columns.items() if _small(value)}
    return Chosen([columns], torch.arange(_length(columns)), own, list(columns))


def later(columns: Later, count: int) -> Chosen:
    """All `count` rows of columns of which some are made when they are first read."""
    return Chosen([columns], torch.arange(count), columns.made, list(columns))


def _length(store: Mapping[str, Tensor]) -> int:
    return len(next(iter(store.values())))


def _small(value: Tensor) -> bool:
    return not len(value) or value[0].numel() * value.element_size() <= SMALL
