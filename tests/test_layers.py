"""The table of layers: what each part of the house may import. Read from the source, so that a stray import cannot hide."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

HOUSE = Path(__file__).resolve().parent.parent / "lethe"
# bottom to top; a room may import what is named behind it, and itself
ROOMS = {
    "errors.py": set(),
    "core": set(),
    "maths": {"core"},
    "train": {"core", "maths"},
    "exact": {"core", "maths", "train"},
    "pools": {"core", "maths", "train"},
    "judge": {"core", "maths", "train", "pools"},
    "data": {"core", "maths", "train"},
    "models": {"core", "maths", "train", "exact", "data"},
    "methods": {"core", "maths", "train", "exact", "pools"},
    "methods/search": {"core", "maths", "train", "pools", "judge", "results"},
    "audits": {"core", "maths", "train", "pools", "judge"},
    "results": {"core", "judge"},
    "ledger": {"core", "results"},
    "report": {"core", "results"},
    "certificate": {"core", "maths", "results", "ledger"},
    "work": {"core", "maths", "train", "exact", "pools", "judge", "data", "models", "results", "ledger", "report", "certificate"},
    "work/door": {"core", "maths", "train", "pools", "judge", "data", "models", "report"},
    "bench": {"core", "report", "results", "work"},
    "service": {"core", "results", "ledger", "report", "certificate", "work"},
}

TORCH_FREE = ["ledger", "report", "results/schema.py", "results/migrations.py", "results/frame.py",
              "results/folder.py", "work/request.py", "cli", "certificate", "maths/noisy.py", "core/catalogue.py",
              "core/config.py", "core/source_text.py", "core/registry.py", "core/discretion.py", "core/evidence.py",
              "core/files.py", "core/places.py", "errors.py", "__init__.py"]


class Source(NamedTuple):
    """What the tests ask of a file."""

    imports: set[str]          # full names of the modules that it imports anywhere
    at_once: set[str]          # those that are imported when it is
    lengths: dict[str, int]    # lines of its functions, signature and docstring counted


@cache
def source(path: Path) -> Source:
    tree, found = ast.parse(path.read_text()), Source(set(), set(), {})
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.imports.update([f"{node.module}.{alias.name}" for alias in node.names] if node.module == "lethe" else
                                 [node.module])
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.lengths[f"{node.name}:{node.lineno}"] = (node.end_lineno or 0) - node.lineno + 1
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.at_once.update([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    return found


def room_of(inner: str) -> str | None:
    """The room of a file, by the longest name that fits; None for what stands at the door (api, cli)."""
    return max((room for room in ROOMS if inner == room or inner.startswith(f"{room}/")), key=len, default=None)


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_run_down_only(room: str) -> None:
    allowed = {room.split("/")[0], "errors"} | ROOMS[room]
    for path in HOUSE.rglob("*.py"):
        inner = path.relative_to(HOUSE).as_posix()
        if room_of(inner) == room:
            above = {name for name in source(path).imports if name.startswith("lethe.") and name.split(".")[1] not in allowed}
            assert not above, f"{inner} imports {above}, which {room} may not"


def test_every_room_has_its_row() -> None:
    doors = {"__init__.py", "__main__.py", "api.py", "cli", "methods/__init__.py"}
    strays = {path.relative_to(HOUSE).as_posix() for path in HOUSE.rglob("*.py")} - {
        inner for path in HOUSE.rglob("*.py") if room_of(inner := path.relative_to(HOUSE).as_posix())}
    assert {name for name in strays if name not in doors and not name.startswith("cli/")} == set()


def test_methods_and_audits_never_meet() -> None:
    for layer, other in (("methods", "audits"), ("audits", "methods")):
        for path in (HOUSE / layer).rglob("*.py"):
            assert not any(name.startswith(f"lethe.{other}") for name in source(path).imports), path
            siblings = {n for n in source(path).imports if n.startswith(f"lethe.{layer}.")}
            assert not siblings, f"{path.relative_to(HOUSE)} imports its neighbours {siblings}"


@pytest.mark.parametrize("place", TORCH_FREE)
def test_what_needs_no_torch_does_not_import_it(place: str) -> None:
    heavy = {"torch", "transformers", "diffusers", "peft", "scipy", "sklearn", "matplotlib", "sqlalchemy"}
    if place == "ledger":
        heavy -= {"sqlalchemy"}   # its own business, imported when a ledger is opened (test_request checks that)
    paths = (HOUSE / place).rglob("*.py") if (HOUSE / place).is_dir() else [HOUSE / place]
    for path in paths:
        loaded = {name.split(".")[0] for name in source(path).at_once}
        assert not loaded & heavy, f"{path.relative_to(HOUSE)} imports {loaded & heavy} when it is imported"


def test_model_libraries_are_imported_only_where_they_are_needed() -> None:
    for path in HOUSE.rglob("*.py"):
        inner = path.relative_to(HOUSE).as_posix()
        for name in source(path).imports:
            root = name.split(".")[0]
            if root in ("transformers", "diffusers"):
                assert inner.startswith("models/"), f"{inner} imports {root}"
        assert not {n.split(".")[0] for n in source(path).at_once} & {"transformers", "diffusers", "peft", "pandas"}, inner


def test_files_stay_short() -> None:
    long = {p.relative_to(HOUSE).as_posix(): n for p in HOUSE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long, f"files over 400 lines hide an idea that wants its own file: {long}"


def test_functions_fit_on_a_screen() -> None:
    """50 lines at most, signature and docstring counted."""
    long = {f"{path.relative_to(HOUSE).as_posix()}:{name}": lines for path in HOUSE.rglob("*.py")
            for name, lines in source(path).lengths.items() if lines > 50}
    assert not long, f"functions over 50 lines hide an idea that wants a name of its own: {long}"
