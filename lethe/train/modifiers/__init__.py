"""The five open seams of the loop, a folder each: where, combine, perturb, average, weigh.

A member is one file, `<seam>/<member>.py`, with one frozen config class that implements the seam's Protocol; the
file's name is the member's. Another package adds one through an entry point of the group `lethe.modifiers` that is called
`seam.member`. An object from elsewhere can stand for a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, overload

from lethe.core.catalogue import SEAMS, entries, load
from lethe.core.config import build
from lethe.errors import RequestError, UnknownKey, nearest, unknown_name
from lethe.train.modifiers.average import Average
from lethe.train.modifiers.combine import Combine, Member
from lethe.train.modifiers.perturb import Perturb
from lethe.train.modifiers.weigh import Weigh
from lethe.train.modifiers.where import Where

__all__ = ["SEAMS", "Average", "Choice", "Combine", "Perturb", "Weigh", "Where", "members", "resolve", "resolved"]

Choice = str | Mapping[str, Any]   # a member's name, or {name: …, option: …}
Seam = Literal["where", "combine", "perturb", "average", "weigh"]


def members(seam: str) -> dict[str, type]:
    """The members of a seam by name; imports them."""
    return {name.split(".")[1]: load("modifiers", name) for name in entries("modifiers") if name.split(".")[0] == seam}


@overload
def resolve(seam: Literal["where"], value: Where | Choice) -> Where: ...
@overload
def resolve(seam: Literal["combine"], value: Member | Choice) -> Member: ...
@overload
def resolve(seam: Literal["perturb"], value: Perturb | Choice) -> Perturb: ...
@overload
def resolve(seam: Literal["average"], value: Average | Choice) -> Average: ...
@overload
def resolve(seam: Literal["weigh"], value: Weigh | Choice) -> Weigh: ...
@overload
def resolve(seam: str, value: Any) -> Any: ...
def resolve(seam: str, value: Any) -> Any:
    """A member from its name, from `{name: …, option: …}`, or the member itself."""
    if not isinstance(value, (str, Mapping)):
        return value
    options = {"name": value} if isinstance(value, str) else dict(value)
    if "name" not in options:
        raise RequestError(f"{seam}: {options} names no member, so nothing was started. Write {seam}: {{name: …}}.")
    name = options.pop("name")
    known = [full.split(".")[1] for full in entries("modifiers") if full.split(".")[0] == seam]
    if name not in known:
        raise unknown_name(f"{seam} modifier", name, known)
    return build(load("modifiers", f"{seam}.{name}"), options)


def resolved(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Members for the seams that `options` names; a seam that does not exist is an error."""
    for seam in options or {}:
        if seam not in SEAMS:
            raise UnknownKey(f"modifiers.{seam} is not a seam of the loop{nearest(seam, SEAMS)}, so nothing was started. "
                             f"Seams: {', '.join(SEAMS)}.")
    return {seam: resolve(seam, value) for seam, value in (options or {}).items() if value is not None}
