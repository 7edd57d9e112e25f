"""Canonical JSON: equal data give equal bytes, so that a signature covers the meaning and not the spelling.

Sorted keys, no spaces, UTF-8, integers as they are, every other number as its shortest decimal string ("0.25"), no NaN
or infinity. What is read back must be spelled exactly so: a second spelling of the same data would be a second document
under one signature.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from lethe.errors import NotFinite, StorageError


def fixed(value: Any) -> Any:
    """Plain data as they will be read back: floats become decimal strings, keys and other objects strings."""
    if isinstance(value, Mapping):
        return {str(key): fixed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [fixed(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotFinite(f"{value} cannot stand in a certificate, so none was written. Leave the value out.")
        return repr(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()


def encode(value: Any) -> bytes:
    """The canonical bytes of plain data."""
    return json.dumps(fixed(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def decode(data: bytes, name: str) -> Any:
    """The data behind canonical bytes; StorageError when they are not canonical."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_once, parse_float=_refused, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{name} cannot be read ({error}): it was cut short or edited. Get it from its issuer "
                           "again.") from None
    try:
        same = encode(value) == data
    except (ValueError, RecursionError):   # lone halves of characters; more levels than can be walked
        same = False
    if not same:
        raise StorageError(f"{name} is not in canonical form: it was rewritten after it was made. Get it from its issuer again.")
    return value


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return dict(pairs)


def _refused(text: str) -> Any:
    raise ValueError(f"{text} is a number that canonical form does not have")
