"""Every figure of a report as SVG, PNG and CSV, written together."""

from __future__ import annotations

from pathlib import Path

from lethe.core.files import atomic, csv_text, write_text
from lethe.core.names import folder_name
from lethe.report.figure import Drawing, drawing, png, svg
from lethe.report.plots import drawings
from lethe.report.view import cases
from lethe.results.schema import Results


def figures(results: Results, folder: str | Path) -> list[Path]:
    """Write `SCENARIO-FIGURE.{svg,png,csv}` into `folder`; the paths written."""
    written: list[Path] = []
    with drawing():
        for place, case in enumerate(cases(results), start=1):
            for made in drawings(case):
                stem = f"{folder_name(case.name) if case.name else place}-{made.name}"
                written += _write(made, Path(folder) / stem)
    return written


def _write(made: Drawing, base: Path) -> list[Path]:
    """The three files of one figure."""
    paths = [base.with_name(f"{base.name}.{ending}") for ending in ("svg", "png", "csv")]
    write_text(paths[0], svg(made.figure, made.title))
    with atomic(paths[1]) as beside:
        beside.write_bytes(png(made.figure))
    write_text(paths[2], csv_text(made.rows))
    return paths
