"""Typed, frozen configuration: the dataclass is the schema, the command-line help and the documentation table."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, overload

import pydantic
import pydantic.dataclasses
import pydantic_core
from pydantic import Field

from lethe.core.code import identity
from lethe.errors import OutOfRange, UnknownKey, nearest

T = TypeVar("T")

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Optimiser = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "linear", "cosine", "onecycle"]
Parity = Literal["none", "open_unlearning"]   # ours, or the form in which that code's numbers were published


@overload
def config(cls: type[T]) -> type[T]: ...
@overload
def config(*, name: str) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, kw_only_default=False)
def config(cls: type[T] | None = None, *, name: str = "") -> type[T] | Callable[[type[T]], type[T]]:
    """Make `cls` a frozen, strict record: unknown keys and values out of range are errors as soon as it is made.

    name  how users address the record where its class has another name: `@config(name="data")` for a source of data
    """
    if cls is None:
        return lambda found: _strict(found, name)
    return _strict(cls, name)


def _strict(cls: type[T], name: str) -> type[T]:
    if name:
        setattr(cls, NAMED, name)
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))(cls)
    strict_init = made.__init__

    def init(self: Any, /, *args: Any, **kwargs: Any) -> None:
        fields = [f.name for f in dataclasses.fields(made)]
        for key in kwargs:
            if key not in fields:
                raise UnknownKey(f"{key!r} is not an option of {option_name(made)}{nearest(key, fields)}. "
                                 f"Options: {', '.join(fields) or 'none'}.")
        try:
            strict_init(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            raise _refused(option_name(made), error) from None

    made.__init__ = init
    typed: type[T] = made
    return typed


NAMED = "__option_name__"
ABSENT = ("missing", "missing_argument")   # how pydantic calls what is not there


def _refused(record: str, error: pydantic.ValidationError) -> OutOfRange:
    """The faults of a record in words: what is missing, and the first value with what to write instead."""
    missing = [str(one["loc"][0]) for one in error.errors() if one["type"] in ABSENT]
    wrong = [one for one in error.errors() if one["type"] not in ABSENT]
    words = [f"{record} needs {name!r}, which is missing. Provide {record}.{name}." for name in missing]
    return OutOfRange(" ".join([*words, *([_wrong(record, wrong)] if wrong else [])]))


def _wrong(record: str, errors: Sequence[pydantic_core.ErrorDetails]) -> str:
    """The first value that a field does not take, and what to write instead."""
    first = errors[0]
    where = ".".join(str(p) for i, p in enumerate(first["loc"]) if i == 0 or isinstance(p, int))   # no type tags
    of_field = [one for one in errors if one["loc"][0] == first["loc"][0]]
    value = reprlib.repr(first.get("input"))
    choices = [choice for one in of_field for choice in _choices(one)]
    if choices:
        other = [_must(one["msg"]) for one in of_field if not _choices(one)]
        free = f", or {other[0].replace('must be ', '' if 'must be a' in other[0] else 'a value ')}" if other else ""
        return f"{record}.{where} = {value}: choose {_either(choices)}{free}{nearest(str(first.get('input')), choices)}."
    return f"{record}.{where} = {value}: {' or '.join(dict.fromkeys(_must(one['msg']) for one in of_field))}."


def _choices(error: pydantic_core.ErrorDetails) -> list[str]:
    """The values that a field of type Literal takes; none for other errors."""
    if error["type"] != "literal_error":
        return []
    return [quoted or bare for quoted, bare in re.findall(r"'([^']*)'|(\d+)", error["ctx"]["expected"])]


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _must(message: str) -> str:
    """pydantic's "Input should be …" as a demand: "must be …"."""
    message = message.split(", unable to parse")[0]
    return re.sub(r"^(input|value)\b", "", message.lower()[:6] + message[6:]).strip().replace("should", "must", 1)


def option_name(cls: type) -> str:
    """The name by which users address a record: as declared, else its file for methods and audits (`npo`), else its class
    in snake case."""
    declared = vars(cls).get(NAMED)
    if declared:
        return str(declared)
    module = cls.__module__
    if any(room in module for room in (".methods.", ".audits.", ".modifiers.")):
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
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):   # their order is another in every process
        return sorted(map(plain, value), key=str)
    if inspect.isroutine(value):   # its address would be another in every process
        return f"{value.__qualname__} {identity(value)}"
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def digest(value: Any) -> str:
    """A stable 16-hex-digit hash of plain data; names runs and cache entries."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
