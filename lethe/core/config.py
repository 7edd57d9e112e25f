"""Typed, frozen configuration: the dataclass is the schema, the command-line help and the documentation table."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic
import pydantic.dataclasses
from pydantic import Field

from lethe.errors import OutOfRange, UnknownKey, nearest

T = TypeVar("T")

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]


@dataclass_transform(frozen_default=True, kw_only_default=False)
def config(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, strict record: unknown keys and values out of range are errors before any work starts."""
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))(cls)
    strict_init = made.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        fields = [f.name for f in dataclasses.fields(made)]
        for key in kwargs:
            if key not in fields:
                raise UnknownKey(
                    f"{key!r} is not an option of {option_name(made)}{nearest(key, fields)}, so nothing was started. "
                    f"Options: {', '.join(fields) or 'none'}."
                )
        try:
            strict_init(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(p) for i, p in enumerate(first["loc"]) if i == 0 or isinstance(p, int))  # no type tags
            if first["type"] in ("missing", "missing_argument"):
                raise OutOfRange(f"{option_name(made)} needs {where!r}, which was not given. Nothing was started; give "
                                 "it.") from None
            raise OutOfRange(
                f"{option_name(made)}.{where} = {first.get('input')!r}: {first['msg'].lower()}. Nothing was started; "
                "give a value in range."
            ) from None

    made.__init__ = init
    typed: type[T] = made
    return typed


def option_name(cls: type) -> str:
    """The name by which users address a record: its file for methods and audits (`npo`), else its class in snake case."""
    module = cls.__module__
    if ".methods." in module or ".audits." in module:
        return module.rsplit(".", 1)[-1]
    return snake(cls.__name__)


def snake(name: str) -> str:
    """CamelCase -> camel_case."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def build(cls: type[T], options: Mapping[str, Any] | None) -> T:
    """A record of type `cls` from a mapping; unknown keys name the nearest known one."""
    return cls(**dict(options or {}))


def plain(value: Any) -> Any:
    """`value` as JSON-ready data: records become mappings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def digest(value: Any) -> str:
    """A stable 16-hex-digit hash of plain data; names runs and cache entries."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
