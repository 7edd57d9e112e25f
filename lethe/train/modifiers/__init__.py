"""The five open seams of the loop. A member is a frozen config with one or two methods; `resolve` finds it by its name
in snake case. A new member is one class in the file of its seam; an object from elsewhere can stand for a name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from lethe.core.config import build, snake
from lethe.errors import RequestError, UnknownKey, nearest, unknown_name

SEAMS = ("where", "combine", "perturb", "average", "weigh")


def members(seam: str) -> dict[str, type]:
    """The members of a seam by name."""
    module = importlib.import_module(f"lethe.train.modifiers.{seam}")
    return {
        snake(name).strip("_"): cls
        for name, cls in vars(module).items()
        if isinstance(cls, type) and cls.__module__ == module.__name__ and hasattr(cls, "__pydantic_fields__")
    }


def resolve(seam: str, value: Any) -> Any:
    """A member from its name, from `{name: …, option: …}`, or as it is."""
    if not isinstance(value, (str, Mapping)):
        return value
    options = {"name": value} if isinstance(value, str) else dict(value)
    if "name" not in options:
        raise RequestError(f"{seam}: {options} names no member, so nothing was started. Write {seam}: {{name: …}}.")
    name, known = options.pop("name"), members(seam)
    if name not in known:
        raise unknown_name(f"{seam} modifier", name, known)
    return build(known[name], options)


def resolved(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Members for the seams that `options` names; a seam that does not exist is an error."""
    for seam in options or {}:
        if seam not in SEAMS:
            raise UnknownKey(f"modifiers.{seam} is not a seam of the loop{nearest(seam, SEAMS)}, so nothing was started. "
                             f"Seams: {', '.join(SEAMS)}.")
    return {seam: resolve(seam, value) for seam, value in (options or {}).items() if value is not None}
