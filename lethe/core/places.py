"""Files that a request names: which of its texts are paths, and where they lie. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lethe.core.user_files import exists, expanded

PLACED = ("model", "data", "recipe", "method", "policy")   # parts that may name files
NAMES = ("kind", "zoo", "name", "head",          # keys whose values are names or words and never paths
         "concept", "keep", "prompts", "outside", "anchor", "synonyms", "replacement", "guide", "host", "leave_out")
BARE = ("path", "folder", "weights", "start", "base", "trained", "statistics", "holdout", "test", "policy",   # paths of one word
        "judge")
LONG = 1024                                      # letters: what is longer is text


def located(value: Any, places: Sequence[Path], key: str = "") -> Any:
    """A part of a request with its paths made absolute: a relative one is that of the first place where it exists.

    What follows a colon stays: `net.py:make` names a function of net.py.
    """
    if isinstance(value, Mapping):
        return {inner: located(item, places, str(inner)) for inner, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [located(item, places, key) for item in value]
    if not isinstance(value, str) or not _may_be(value, key):
        return value
    name, colon, tail = value.partition(":")
    found = next((place / name for place in places if exists(place / name)), None)
    return value if found is None else str(found.absolute()) + colon + tail


def paths(content: Mapping[str, Any], root: Path | None = None) -> Iterator[tuple[str, Path]]:
    """The files and folders that a request names: (`model.weights`, path).

    root  folder of data sets, below which a relative path may lie
    """
    for key in PLACED:
        for keys, value in _leaves(content.get(key), (key,)):
            if (path := path_of(value, keys[-1], root)) is not None:
                yield ".".join(keys), path


def path_of(value: str, key: str, root: Path | None = None) -> Path | None:
    """The file or folder that a text of a request names; None when it is none."""
    if not _may_be(value, key):
        return None
    name = expanded(Path(value.partition(":")[0]))
    return next((place for place in (name, *([root / name] if root is not None else [])) if exists(place)), None)


def without_places(content: Mapping[str, Any], root: Path | None = None) -> dict[str, Any]:
    """The request with every path taken out; what follows a colon stays."""

    def told(value: Any, key: str) -> Any:
        if isinstance(value, str):
            return value if path_of(value, key, root) is None else f"[file]:{value.partition(':')[2]}"
        if isinstance(value, Mapping):
            return {str(inner): told(item, str(inner)) for inner, item in value.items()}
        return [told(item, key) for item in value] if isinstance(value, (list, tuple)) else value

    return {key: told(value, key) if key in PLACED else value for key, value in content.items()}




def _may_be(value: str, key: str) -> bool:
    """Whether a text may be a path: `holdout: test` means a part of the data, `label: income` a column."""
    name = value.partition(":")[0]
    return bool(name.strip(".")) and len(name) < LONG and key not in NAMES and (
        "/" in name or "." in name or (key in BARE and name != "test"))


def _leaves(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, str):
        yield keys, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*keys, str(key)))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item, keys)
