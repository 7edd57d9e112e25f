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


def measured(name: str, overrides: Sequence[str], options: Options, place: Path | None, workers: int) -> dict[str, Any]:
    """Run a suite; the files that were written, and the problems whose data are not here."""
    from lethe.bench.run import run

    ran = run(name, overrides, options, place, workers)
    return {"suite": name, "written": [str(path) for path in ran.written], **({"left out": ran.absent} if ran.absent else {})}


def written_page(name: str, page: Path, place: Path | None) -> dict[str, Any]:
    """Write the page of a suite from what was measured; beside one of curves also their figure, of one of rows what they say."""
    from lethe.bench.courses import figure
    from lethe.bench.curves import curves_page
    from lethe.bench.page import measured_page
    from lethe.bench.suite import read
    from lethe.bench.table import rows, rows_page, table_page
    from lethe.core.files import write_text
    from lethe.report.figure import drawing

    asked = read(name)
    if asked.across:
        return {"suite": name, "written": [str(path) for path in curves_page(name, page, place)]}
    if asked.columns:
        write_text(page, rows_page(name, page, place))
        return {"suite": name, "page": str(page),
                "rows": {group: [row.plain() for row in some] for group, some in rows(name, place).items()}}
    write_text(page, table_page(name, page, place) if asked.claims else measured_page(name, page, place))
    if not asked.courses:
        return {"suite": name, "page": str(page)}
    shown = page.with_suffix(".svg")
    with drawing():
        write_text(shown, figure(name, place))
    return {"suite": name, "written": [str(page), str(shown)]}
