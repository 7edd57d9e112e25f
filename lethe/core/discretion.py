"""What ledger, results and page must not keep: the values by which a request names records.

A list of forgotten people kept as proof of forgetting would be the very data that was to be removed. What is kept is how
records were selected (by id, by entity, …), how many, and fingerprints. The run's request.yaml, which repeating and certifying
need, is for the user alone (0600).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from functools import lru_cache
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


def secrets(config: Any, inside: bool = False) -> frozenset[str]:
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
    return frozenset(found)


def in_texts(value: Any, change: Callable[[str], str | None]) -> Any:
    """Nested data with every text changed; keys stay."""
    if isinstance(value, Mapping):
        return {key: in_texts(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def without(text: str | None, words: Set[str]) -> str | None:
    """`text` without `words` (whole words only, longest first)."""
    if not text or not words:
        return text
    return _any_of(frozenset(words)).sub(WITHHELD, text)


@lru_cache(maxsize=4)
def _any_of(words: frozenset[str]) -> re.Pattern[str]:
    """Any of these words, whole: made once, since every text of a run is looked through for the same ones."""
    pattern = "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{pattern})(?!\w)")


def _count(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) != 1:
        return f"[{len(value)} values withheld]"
    return WITHHELD


def _leaves(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        return set().union(*[_leaves(v) for v in value.values()])
    if isinstance(value, (list, tuple)):
        return set().union(*[_leaves(v) for v in value])
    if value is None or isinstance(value, bool) or value == "" or str(value).endswith(WITHHELD[1:]):
        return set()
    return {str(value)}
