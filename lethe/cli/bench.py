"""`lethe bench`: list the suites, or measure every method on one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.bench.suite import expectation, suites

if TYPE_CHECKING:
    from lethe.work.options import Options


def listed() -> dict[str, str]:
    """Every suite with its opening words."""
    return {name: expectation(name) for name in suites()}


def measured(name: str, overrides: Sequence[str], options: Options, place: Path | None) -> dict[str, Any]:
    """Run a suite; the files that were written."""
    from lethe.bench.run import run

    return {"suite": name, "written": [str(path) for path in run(name, overrides, options, place)]}
