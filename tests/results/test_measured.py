"""What was measured: files that can be read, are replaced by problem, and belong to something that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lethe.core.catalogue import entries
from lethe.results.measured import Measured, Note, Number, folder, read, replaced, write

HOUSE = Path(__file__).resolve().parents[2] / "lethe"


def number(problem: str, metric: str, mean: float) -> Number:
    return Number(problem=problem, metric=metric, mean=mean, sd=0.1, seeds=3, command="lethe bench digits", commit="abc")


def test_what_is_written_is_read_again_and_a_problem_is_replaced_as_a_whole(tmp_path: Path) -> None:
    both = number("a", "m", 1.0), number("b", "m", 2.0)
    known = Measured(schema=1, name="x", numbers=both, notes=(Note(text="t", commit="c"),))
    path = write(known, tmp_path)
    assert Measured.model_validate_json(path.read_text()) == known
    first = path.read_bytes()
    assert write(known, tmp_path).read_bytes() == first
    after = replaced(known, "a", (number("a", "n", 3.0),))
    assert [(one.problem, one.metric, one.mean) for one in after.numbers] == [("a", "n", 3.0), ("b", "m", 2.0)]
    assert after.notes == known.notes


def test_nothing_measured_is_empty_and_no_error() -> None:
    assert read("no_such_method") == Measured(schema=1, name="no_such_method")


@pytest.mark.parametrize("path", sorted(folder().glob("*.json")), ids=lambda path: path.stem)
def test_every_file_belongs_to_a_file_of_the_house(path: Path) -> None:
    found = read(path.stem)
    assert found.name == path.stem and (found.numbers or found.notes)
    places = [*HOUSE.rglob(f"{path.stem}.py"), *HOUSE.rglob(f"{path.stem}/__init__.py")]
    assert places or path.stem in entries("methods"), f"{path.name} belongs to nothing in lethe/"   # a file may hold several


def test_docstrings_hold_no_measurements() -> None:
    told = [path.name for path in HOUSE.rglob("*.py") if re.search(r"^Measured\b", path.read_text(), re.M)]
    assert not told, f"numbers belong in measured/<name>.json: {told}"
