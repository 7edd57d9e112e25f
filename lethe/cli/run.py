"""What `lethe run` and `lethe compare` print, and with which status they end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lethe.report.report import Report
    from lethe.work.request import Request


def after(report: Report, request: Request, path: Path, verb: str, export: bool) -> str:
    """The table, where everything was written, and what to do next."""
    place = Path(request.output) / report.results.id
    page = f"\nPage:    {place / 'report.html'}" if (place / "report.html").exists() else ""
    lines = [f"{report.table()}\n{page}", f"Numbers: {place / 'results.json'}"]
    if export:
        lines.append(f"Models:  {place / 'models'}")
    lines.append(f"\nYour own model: copy {path}, set model and data (lethe describe METHOD says what a method needs), then\n"
                 f"    lethe {verb} your_request.yaml")
    return "\n".join(lines)


def status_of(report: Report) -> int:
    """1 where a method or an audit failed by a defect; 3 where a method could not do its work: it failed, changed nothing, or the
    watchdog ended it at its last sound point; else 0."""
    defects = [name for case in report.results.scenarios for name in case.defects]
    if defects:
        print(f"Failed by a defect: {', '.join(defects)}. The others are done; see the table and the tracebacks in failures/.",
              file=sys.stderr)
        return 1
    rows = [row for case in report.results.scenarios for row in case.subjects]
    ended = [row.name for row in rows if row.fall and not row.unchanged]
    if ended:
        print(f"Ended by the watchdog at the last sound point: {', '.join(ended)}. Notes and page say what was lost.",
              file=sys.stderr)
    return 3 if ended or any(row.error for row in rows) else 0
