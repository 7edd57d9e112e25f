"""Results as plain data, and `Report`, the object that shows them. No torch.

    {schema, id, title, created, command, seconds, versions, config,
     scenarios: [{name, request, family, score_name, sizes, fingerprints, references, subjects, not_tested, blind}]}

`subjects` are rows: the original (doing nothing), a fresh retrained model, and each method; every row carries its
evidence (`lethe.core.evidence`), cost, configuration, samples, and a conclusion in one sentence.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lethe.core.files import write_json

SCHEMA = 1


@dataclass
class Report:
    """The results of an audit or a comparison."""

    results: dict[str, Any]

    def save(self, path: str | Path) -> Path:
        """Write the page (`.html`), the data (`.json`) or the table (`.csv`), by the ending of `path`."""
        from lethe import report

        path = Path(path)
        if path.suffix == ".json":
            write_json(path, self.results)
        elif path.suffix == ".csv":
            from lethe.core.files import write_text

            write_text(path, report.to_csv(self.results))
        else:
            report.save(self.results, path)
        return path

    def save_leaderboard(self, folder: str | Path) -> None:
        """Write leaderboard.csv and leaderboard.json: mean and deviation over seeds, with the controls and the floor."""
        from lethe import report
        from lethe.core.files import write_text

        write_text(Path(folder) / "leaderboard.csv", report.to_leaderboard_csv(self.results))
        write_json(Path(folder) / "leaderboard.json", report.standings(self.results))

    def table(self) -> str:
        """The comparison as text."""
        from lethe import report

        return report.terminal_table(self.results)

    def __str__(self) -> str:
        return self.table()

    def rows(self, scenario: str | None = None) -> list[dict[str, Any]]:
        """The subjects of a scenario (default: the first)."""
        for case in self.results["scenarios"]:
            if scenario is None or case["name"] == scenario:
                return case["subjects"]
        raise KeyError(scenario)

    def value(self, subject: str, metric: str, scenario: str | None = None) -> float:
        """One number: of a subject (method name, original, retrained) and a metric."""
        for row in self.rows(scenario):
            if row["name"] == subject:
                for item in row["evidence"]:
                    if item["metric"] == metric:
                        return item["value"]
        raise KeyError(f"{subject}: {metric}")

    def verdict(self, subject: str, scenario: str | None = None) -> str:
        """inside | outside | not enough power | no yardstick | failed."""
        return next(row for row in self.rows(scenario) if row["name"] == subject)["conclusion"]["verdict"]


def load(path: str | Path) -> Report:
    """A report from a run folder or a results.json."""
    path = Path(path)
    return Report(json.loads((path / "results.json" if path.is_dir() else path).read_text()))


def frame(run: str, title: str, command: str, config: Mapping[str, Any], scenarios: list[dict[str, Any]], seconds: float,
          device: str, threads: int) -> dict[str, Any]:
    """The results dictionary around finished scenarios."""
    return {
        "schema": SCHEMA, "id": run, "title": title, "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command, "seconds": seconds, "config": dict(config), "scenarios": scenarios,
        "versions": {**versions(), "device": device, "threads": threads},
    }


@cache
def versions() -> dict[str, str]:
    """Versions of what computes the numbers; git revision where the package stands in a repository."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for name in ("lethe", "torch", "numpy", "scipy", "transformers", "diffusers", "peft"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    here = Path(__file__).resolve().parent
    try:
        asked = ["git", "-C", str(here), "describe", "--always", "--dirty"]
        found["git"] = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return found
