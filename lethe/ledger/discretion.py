"""What the ledger must not keep: the values by which a request names records.

A list of forgotten people kept as proof of forgetting would be the very data that was to be removed. The ledger keeps how
records were selected (by id, by entity, …) and how many, and the fingerprints that the results carry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import Any

NAMING = ("ids", "index", "entity", "text", "query", "column")   # selections whose values name records
WITHHELD = "[withheld]"


def discreet(config: Any, inside: bool = False) -> Any:
    """`config` with the values of naming selections under any `forget` replaced by their count."""
    if isinstance(config, Mapping):
        return {
            str(key): _count(value) if inside and key in NAMING and value is not None
            else discreet(value, inside or key == "forget")
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return [discreet(item, inside) for item in config]
    return config


def secrets(config: Any, inside: bool = False) -> set[str]:
    """The texts that `discreet` takes out of `config`; they are taken out of commands and messages, too."""
    found: set[str] = set()
    if isinstance(config, Mapping):
        for key, value in config.items():
            if inside and key in NAMING:
                found |= _leaves(value)
            else:
                found |= secrets(value, inside or key == "forget")
    elif isinstance(config, (list, tuple)):
        for item in config:
            found |= secrets(item, inside)
    return found


def without(text: str | None, words: Set[str]) -> str | None:
    """`text` without `words` (whole words only, longest first)."""
    if not text or not words:
        return text
    pattern = "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{pattern})(?!\w)", WITHHELD, text)


def _count(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) != 1:
        return f"[{len(value)} values withheld]"
    return WITHHELD


def _leaves(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        return set().union(*[_leaves(v) for v in value.values()])
    if isinstance(value, (list, tuple)):
        return set().union(*[_leaves(v) for v in value])
    return set() if value is None or isinstance(value, bool) or value == "" else {str(value)}
