"""Code that a request names, put beside a request that is written: there it may be run without a flag."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lethe.core.places import PLACED


def bring(content: Mapping[str, Any], folder: Path, final: Path) -> tuple[dict[str, Any], bool]:
    """(the request with its .py files in `folder`, whether other code is left, for which --allow-code is needed).

    final  what `folder` will be called
    A file that imports others of its folder stays where it is, so does a package, and a second file of one name.
    """
    brought: dict[str, Path] = {}
    foreign: list[str] = []

    def told(value: Any, key: str) -> Any:
        if isinstance(value, Mapping):
            return {inner: told(item, str(inner)) for inner, item in value.items()}
        if isinstance(value, list):
            return [told(item, key) for item in value]
        if not isinstance(value, str) or not _code(value, key):
            return value
        where, _, name = value.rpartition(":")
        path = Path(where).resolve()
        if path.suffix != ".py" or not _alone(path) or brought.setdefault(path.name, path) != path:
            foreign.append(value)
            return value
        shutil.copyfile(path, folder / path.name)
        return f"{final / path.name}:{name}"

    return {key: told(value, key) if key in PLACED else value for key, value in content.items()}, bool(foreign)


def _code(value: str, key: str) -> bool:
    """Whether a text names code of the user's own: `net.py:make`, or a package under `code`."""
    where, colon, name = value.rpartition(":")
    if not colon or not name.isidentifier():
        return False
    return (key == "code" and not where.startswith("lethe.")) or (Path(where).suffix == ".py" and Path(where).is_file())


def _alone(path: Path) -> bool:
    """Whether a file imports nothing that lies in its folder."""
    tree = ast.parse(path.read_bytes())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    firsts = {name.split(".")[0] for name in names}
    return all(first and not (path.parent / f"{first}.py").exists() and not (path.parent / first).is_dir() for first in firsts)
