"""What `lethe run` and `lethe compare` print, and with which status they end."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lethe.report.report import Report
    from lethe.results.schema import Row
    from lethe.work.request import Request


def after(report: Report, request: Request, path: Path, verb: str, export: bool) -> str:
    """The table, where everything was written, and what to do next."""
    place = Path(request.output) / report.results.id
    page = [f"Page:    {place / 'report.html'}"] if (place / "report.html").exists() else []
    models = _models(report, place) if export else []
    return "\n".join([report.table(), *page, f"Numbers: {place / 'results.json'}", *models, "",
                      *_next(place, path, verb, bool(models), any(row.conclusion.verdict != "failed" for row in _made(report)))])


def _made(report: Report) -> list[Row]:
    """The rows of methods."""
    return [row for case in report.results.scenarios for row in case.subjects if row.role == "method"]


def _models(report: Report, place: Path) -> list[str]:
    """Where the models are, and of a single one its files; that there is none where every method failed."""
    folders = sorted({path.parent for path in place.glob("models/**/*") if path.is_file()})
    if not folders:
        return ["Models:  none were written: no method gave one"] if _made(report) else []
    if len(folders) > 1:
        return [f"Models:  {place / 'models'}"]
    return [f"Model:   {folders[0]} ({', '.join(sorted(path.name for path in folders[0].iterdir()))})"]


def _next(place: Path, path: Path, verb: str, exported: bool, sound: bool) -> list[str]:
    """What to do next: with a preset the own model, else what makes sure of the result."""
    if "presets" in path.parts:
        return [f"Your own model: copy {path}, set model and data (lethe describe METHOD says what a method needs), then",
                f"    lethe {verb} your_request.yaml"]
    if not sound:
        return ["Next: other options (lethe describe METHOD), or several methods at once:",
                f"    lethe compare {shlex.quote(str(path))} method=all"]
    if not exported:
        return ["Next: write the models, too:", f"    lethe {verb} {shlex.quote(str(path))} --export    # and its overrides"]
    return ["Next: longer attacks, and a signed statement of what may be claimed:", f"    lethe audit {place} --depth deep",
            f"    lethe certify {place} --key issuer.pem    # the key is made if there is none"]


def status_of(report: Report) -> int:
    """1 where a method or an audit failed by a defect; 4 where a ladder does not reach what it was to; 3 where a method could not
    do its work: it failed, changed nothing, or the watchdog ended it at its last sound point; else 0."""
    defects = [name for case in report.results.scenarios for name in case.defects]
    if defects:
        print(f"Failed by a defect: {', '.join(defects)}. The others are done; see the table and the tracebacks in failures/.",
              file=sys.stderr)
        return 1
    if any(case.ladder is not None for case in report.results.scenarios):
        return _of_ladders(report)
    rows = [row for case in report.results.scenarios for row in case.subjects]
    nothing = [row.name for row in rows if row.error]
    if nothing:
        print(f"Without a new model: {', '.join(nothing)}. The lines above the table say why.", file=sys.stderr)
    ended = [row.name for row in rows if row.fall and not row.unchanged]
    if ended:
        print(f"Ended by the watchdog at the last sound point: {', '.join(ended)}. Notes and page say what was lost.",
              file=sys.stderr)
    return 3 if ended or nothing else 0


def _of_ladders(report: Report) -> int:
    """4 where a scenario has no model as requested, else 0: what failed on the way is no failure of a ladder."""
    missed = [(case.name, case.ladder.why) for case in report.results.scenarios if case.ladder and not case.ladder.met]
    for name, why in missed:
        print(f"{name}: {why}" if name else why, file=sys.stderr)
    return 4 if missed else 0
