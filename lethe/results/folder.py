"""The layout of a run folder.

    runs/.cache/  trained models, shared by the runs      runs/ledger.sqlite  the record of every run
    runs/HASH/    request.yaml, results.json, report.html, results.csv; models/[SCENARIO/]LABEL/, failures/; work/ while it runs
"""

from __future__ import annotations

from pathlib import Path


def file_name(label: str) -> str:
    """The folder of a row, or of a scenario."""
    return label.replace(" ", "-")


def models_folder(run: Path, scenario: str) -> Path:
    """Where the models of a scenario are written."""
    return run / "models" / file_name(scenario)


def model_folder(run: Path, scenario: str, label: str) -> Path:
    """Where the model of one row is written."""
    return models_folder(run, scenario) / file_name(label)


def cache_of(run: Path) -> Path:
    """Where the models of a run are cached, unless another place was chosen."""
    return run.parent / ".cache"
