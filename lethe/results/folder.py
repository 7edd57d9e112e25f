"""The layout of a run folder.

    runs/.cache/  trained models, shared by the runs      runs/ledger.sqlite  the record of every run
    runs/HASH/    identity.json, request.yaml, results.json, results.csv, leaderboard.*, report.html; models/[SCENARIO/]LABEL/,
                  commitments.json, failures/
    runs/.HASH.unfinished/   the same while it is made, and its logs and checkpoints in work/
    runs/.HASH.replaced/     the run before it, for the moment in which they change places
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from lethe.core.names import folder_name

LEDGER = "ledger.sqlite"


def models_folder(run: Path, scenario: str) -> Path:
    """Where the models of a scenario are written."""
    return run / "models" / folder_name(scenario) if scenario else run / "models"


def models_kept(run: Path, scenario: str, scenarios: Collection[str]) -> Path:
    """Where the models of a scenario, one of `scenarios`, are read."""
    return kept(run / "models", scenario, scenarios) if scenario else models_folder(run, scenario)


def kept(place: Path, name: str, names: Collection[str]) -> Path:
    """Where the folder of `name`, one of `names`, is read below `place`: where it is written now or, where only this name can be
    meant, where runs of before wrote it, with - for a space (`salun (2)` -> `salun-(2)`)."""
    now, before = place / folder_name(name), name.replace(" ", "-")
    alone = "/" not in before and sum(before in (other.replace(" ", "-"), folder_name(other)) for other in names) == 1
    return place / before if alone and not now.exists() and (place / before).is_dir() else now


def unfinished(run: Path) -> Path:
    """Where a run is made, until it is whole."""
    return run.with_name(f".{run.name}.unfinished")


def replaced(run: Path) -> Path:
    """Where the run of before stands while a new one takes its place."""
    return run.with_name(f".{run.name}.replaced")


def ledger_of(run: Path) -> Path:
    """The ledger that has the run's entries."""
    return run.parent / LEDGER


def cache_of(run: Path) -> Path:
    """Where the models of a run are cached, unless another place was chosen."""
    return run.parent / ".cache"
