"""The layout of a run folder.

    runs/.cache/  trained models, shared by the runs      runs/ledger.sqlite  the record of every run
    runs/HASH/    request.yaml, results.json, report.html, results.csv; models/[SCENARIO/]LABEL/, failures/; work/ while it runs
"""

from __future__ import annotations

from pathlib import Path

from lethe.core.names import folder_name


def models_folder(run: Path, scenario: str) -> Path:
    """Where the models of a scenario are written."""
    return run / "models" / folder_name(scenario) if scenario else run / "models"


def model_folder(run: Path, scenario: str, label: str) -> Path:
    """Where the model of one row is written."""
    return models_folder(run, scenario) / folder_name(label)


def cache_of(run: Path) -> Path:
    """Where the models of a run are cached, unless another place was chosen."""
    return run.parent / ".cache"
