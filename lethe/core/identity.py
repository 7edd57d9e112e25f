"""What a run is: one digest over its request, the contents of its files, its data, the code of its model, our numbers.

Names and places of files take no part: the same contents elsewhere are the same run, other contents behind the same path
are another one. Runs, checkpoints, kept tables, trained models of a cache and old results carry such digests, and they are
compared at every use.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lethe.core.config import digest
from lethe.core.files import file_hash
from lethe.core.modules import state_fingerprint
from lethe.core.places import paths, without_places
from lethe.core.split import Split

NUMBERS = 1   # version of our numbers: raised when the same request on the same files would give other weights or values
LIBRARIES = ("torch", "torchvision", "transformers", "diffusers", "peft", "lethe", "builtins")   # NUMBERS speaks for lethe


@dataclass(frozen=True)
class Identity:
    """The digest that names a run, and the parts that it is made of, each with its own digest: `model.weights`, `data train`."""

    parts: Mapping[str, str]

    @property
    def digest(self) -> str:
        return digest(dict(self.parts))

    def changed(self, then: Mapping[str, str]) -> list[str]:
        """The parts, besides the request itself, that are not as they were `then`."""
        return sorted(key for key in self.parts.keys() | then.keys() if key != "request" and self.parts.get(key) != then.get(key))


def identity(config: Mapping[str, Any], splits: Mapping[str, Split], model: nn.Module | None, root: Path | None = None
             ) -> Identity:
    """The identity of the run of a request (as plain data) on these splits and this model, given or fresh.

    root  folder of data sets, below which relative paths are looked up
    """
    content = {key: value for key, value in config.items() if key not in ("output", "accept")}
    parts = {"numbers": str(NUMBERS), "request": digest(without_places(content, root))}
    for name, path in paths(content, root):
        if not name.startswith("data."):   # of these the splits speak
            parts[name] = digest([parts.get(name, ""), contents(path)])
    parts |= {f"data {name}": _data(split) for name, split in splits.items()}
    if model is not None:
        parts["model"] = digest([state_fingerprint(model), code_of(model)])
    return Identity(parts)


def contents(path: Path) -> str:
    """The digest of a file, with what a Python file imports from beside it, or of all files below a folder."""
    state = hashlib.sha256()
    if path.is_dir():
        inside = [file for file in sorted(path.rglob("*")) if file.is_file()]
        for file in inside:
            state.update(f"{file.relative_to(path).as_posix()}\0{file_hash(file)}\0".encode())
        return state.hexdigest()[:16]
    if not path.is_file():   # a pipe or a device: its readers refuse it
        return "no file"
    return code([path]) if path.suffix == ".py" else file_hash(path)[:16]


def code_of(model: nn.Module) -> str:
    """The digest of the source files of a model's own classes and of what they import from beside them; '' without any."""
    modules = {type(one).__module__ for one in model.modules()}
    own = [name for name in sorted(modules) if name.partition(".")[0] not in LIBRARIES]
    files = [Path(file) for name in own if (file := getattr(sys.modules.get(name), "__file__", None))]
    return code(files) if files else ""


def code(files: Iterable[Path]) -> str:
    """The digest of Python files and of what they import from beside them, whatever their places."""
    waiting, seen, looked = [file.resolve() for file in files], dict[Path, str](), set[Path]()
    while waiting:
        file = waiting.pop()
        if file not in seen and file.is_file():
            seen[file] = file_hash(file)
            for place in _imported(file, seen[file]) - looked:
                looked.add(place)
                waiting += [path.resolve() for path in (place.with_name(f"{place.name}.py"), *place.rglob("*.py"))]
    return digest(sorted([file.name, sha] for file, sha in seen.items()))


@cache   # a pool asks for the code of every member
def _imported(file: Path, sha: str) -> frozenset[Path]:
    """What a Python file of this SHA-256 imports from beside it, without .py: a file, or a package, of which all files count."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return frozenset()
    found = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
        above = file.parents[max(0, getattr(node, "level", 0) - 1)] if names else file.parent
        found |= {above / name.partition(".")[0] for name in names}
    return frozenset(found)


def _data(split: Split) -> str:
    """The digest of a split with its further columns, by which records may be selected."""
    state = hashlib.sha256(split.fingerprint.encode())
    for key in sorted(split.meta):
        values: Sequence[Any] | np.ndarray = split.meta[key]
        state.update(f"\0{key}\0".encode())
        state.update("\x1f".join(map(str, values)).encode("utf-8", "backslashreplace"))
    return state.hexdigest()[:16]
