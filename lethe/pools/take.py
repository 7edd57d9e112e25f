"""A share of the models of a pool: number I of N, as in `--take I/N` and the array index of a cluster's job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from lethe.errors import OutOfRange, RequestError

T = TypeVar("T")


@dataclass(frozen=True)
class Take:
    """Share `number` of `of`, counted from 1: every `of`-th member, beginning with the `number`-th."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            last = max(self.of, 1)
            raise OutOfRange(f"take = {self.number}/{self.of} is no share, so nothing was trained. Shares are counted from 1: "
                             f"1/{last} to {last}/{last}.")

    def among(self, members: Sequence[T]) -> list[T]:
        """The members of this share. The shares 1/N to N/N have every member once."""
        return list(members[self.number - 1 :: self.of])


def take_of(text: str) -> Take:
    """A share from "I/N"."""
    number, sign, of = text.partition("/")
    if not sign or not number.strip().lstrip("-").isdecimal() or not of.strip().lstrip("-").isdecimal():
        raise RequestError(f"take = {text!r} is not I/N, so nothing was trained. Write --take 2/8 for the second of eight.")
    return Take(int(number), int(of))
