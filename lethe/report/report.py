"""`Report`: the results of an audit or a comparison as a user holds them. No torch; pages and figures are made on demand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lethe.core.evidence import Ending
from lethe.core.extras import install
from lethe.core.files import write_json, write_text
from lethe.results import schema
from lethe.results.schema import Results, Row, Scenario


@dataclass(frozen=True)
class Report:
    """The results of an audit or a comparison."""

    results: Results

    def save(self, path: str | Path) -> Path:
        """Write the page (`.html`), the data (`.json`) or the table (`.csv`), by the ending of `path`."""
        from lethe import report

        path = Path(path)
        if path.suffix == ".json":
            write_text(path, self.json())
        elif path.suffix == ".csv":
            write_text(path, report.to_csv(self.results))
        else:
            report.save(self.results, path)
        return path

    def save_leaderboard(self, folder: str | Path) -> None:
        """Write leaderboard.csv and leaderboard.json: mean and deviation over seeds, with the controls and the floor."""
        from lethe import report

        write_text(Path(folder) / "leaderboard.csv", report.to_leaderboard_csv(self.results))
        write_json(Path(folder) / "leaderboard.json", report.to_leaderboard_json(self.results))

    def table(self) -> str:
        """The comparison as text."""
        from lethe import report

        return report.terminal_table(self.results)

    def json(self) -> str:
        """The results as JSON text (`lethe schema results` prints its schema)."""
        return schema.to_json(self.results)

    def __str__(self) -> str:
        return self.table()

    def scenario(self, name: str | None = None) -> Scenario:
        """A scenario by its name (default: the first). KeyError when there is none."""
        for case in self.results.scenarios:
            if name is None or case.name == name:
                return case
        raise KeyError(name)

    def rows(self, scenario: str | None = None) -> Sequence[Row]:
        """The models of a scenario (default: the first): original, retrained, then each method."""
        return self.scenario(scenario).subjects

    def value(self, subject: str, metric: str, scenario: str | None = None) -> float:
        """One number: of a model (method name, original, retrained) and a metric; NaN when it is not finite."""
        value = self._row(subject, scenario).measured(metric).value
        return math.nan if value is None else value

    def verdict(self, subject: str, scenario: str | None = None) -> Ending:
        """inside | outside | not enough power | no yardstick | failed."""
        return self._row(subject, scenario).conclusion.verdict

    def _row(self, subject: str, scenario: str | None) -> Row:
        for row in self.rows(scenario):
            if row.name == subject:
                return row
        raise KeyError(f"{subject}: the scenario has {', '.join(row.name for row in self.rows(scenario))}")


def without_page() -> str:
    """Why no page can be written here; '' where it can."""
    return "" if find_spec("jinja2") else f"no page will be written, since jinja2 is not installed: {install('report')}"


def without_figures() -> str:
    """Why the page will lack a figure; '' where it has all, or where there is no page."""
    if find_spec("matplotlib") or without_page():
        return ""
    return f"the page will lack its overview figure, since matplotlib is not installed: {install('report')}"


def load(path: str | Path) -> Report:
    """A report from a run folder or a results.json of this version or an older one."""
    return Report(schema.load(path))
