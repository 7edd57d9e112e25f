"""Every method has a test that works out what its run does: by hand, in the method's own test file."""

from __future__ import annotations

from pathlib import Path

import pytest

from lethe.core import catalogue

WITHOUT = {
    "s3t": "adapters of slices in several orders; test_s3t holds a deletion, bit for bit, against training without the records",
    "sharded": "models that are fitted in one go take no steps; test_sharded works out the answer from fits of its own",
}
FILES = Path(__file__).parents[1] / "methods"


@pytest.mark.parametrize("name", sorted(catalogue.entries("methods")))
def test_a_run_is_worked_out_by_hand(name: str) -> None:
    entry = catalogue.entry("methods", name)
    path = FILES / f"test_{entry.path.stem}.py"
    wanted = "byhand." if entry.declares == "run" else f'byhand.run("{name}"'   # a file of several: each of them
    assert (wanted in path.read_text()) != (name in WITHOUT), f"{path.name} works out no step of {name} with tests/byhand.py"
