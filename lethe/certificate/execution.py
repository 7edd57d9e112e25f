"""Open a finished run again: the records it was trained on, the model from before, and the run itself once more.

The one file of this package that computes with tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lethe.api import forget
from lethe.certificate import merkle
from lethe.certificate.weights import weights_hash
from lethe.core.config import build
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.data.load import learns
from lethe.errors import DataError, NeedsUnmet
from lethe.results.schema import Row, Scenario
from lethe.train.loop import Settings
from lethe.work import execute as runner
from lethe.work.request import Request, read


@dataclass
class Reopened:
    """The records and the original of a run.

    forget, retain  leaves in ascending order       copies  retained records that equal a forgotten one
    before          hash of the original            learned whether the preprocessing was fitted to all training records
    """

    forget: list[bytes]
    retain: list[bytes]
    copies: int
    before: str
    learned: bool


def reopen(run: Path, case: Scenario, options: runner.Options, secret: bytes) -> Reopened:
    """The records and the original of a scenario of a run; DataError when they are not those of the run any more."""
    request = _request(run)
    task = _task(request, run, case, options)
    contents = {name: task.splits[name].contents(32) for name in ("forget", "retain") if task.has(name)}
    if "retain" not in contents:
        raise NeedsUnmet("the run has no retained records, so nothing can be said about what the model was allowed to read; no "
                         "certificate was written. Give the request its retain data.")
    wanted = set(contents["forget"])
    return Reopened(_leaves(task.forget, contents["forget"], secret), _leaves(task.retain, contents["retain"], secret),
                    sum(one in wanted for one in contents["retain"]), _saved_hash(task, None),
                    request.family in ("classification", "regression") and learns(request.data))


def reexecute(run: Path, case: Scenario, row: Row, options: runner.Options) -> tuple[str, str]:
    """(hash of the weights before, after): the method once more, from the same original with the same seed."""
    request = _request(run)
    task = _task(request, run, case, options)
    config = dict(row.config)
    settings, modifiers, _ = config.pop("settings"), config.pop("modifiers"), config.pop("chosen", None)
    outcome = forget(task, config.pop("name"), settings=build(Settings, settings), modifiers=modifiers, progress=False,
                     watchdog=runner.watchdog_of(request), **config)
    return _saved_hash(task, None), _saved_hash(task, outcome)


def model_folder(run: Path, case: Scenario, row: Row) -> Path:
    """Where the run saved this model."""
    return runner.models_folder(run, case.name) / row.name.replace(" ", "-")


def cache_of(run: Path) -> Path:
    """The cache of trained models beside the runs."""
    return runner.cache_folder(_request(run), runner.Options())


def _request(run: Path) -> Request:
    return replace(read(run / "request.yaml"), output=str(run.parent))


def _task(request: Request, run: Path, case: Scenario, options: runner.Options) -> Task:
    task = runner.prepare(request, options).tasks[case.name]
    changed = [name for name, value in task.fingerprint.items() if case.fingerprints.get(name) != value]
    if changed:
        raise DataError(f"{', '.join(changed)} of {run} are not what the run used (fingerprints differ), so a "
                        "certificate would be about other data. Bring back data, software and threads, or repeat with --again.")
    return task


def _leaves(split: Split, contents: list[bytes], secret: bytes) -> list[bytes]:
    return sorted(merkle.leaf(secret, str(name), content) for name, content in zip(split.ids, contents, strict=True))


def _saved_hash(task: Task, outcome: Any) -> str:
    """The hash of a model as its family saves it: of an outcome, or of the original."""
    with TemporaryDirectory(prefix="lethe-certificate-") as scratch:
        place = Path(scratch) / "model"
        if outcome is not None:
            outcome.save(place)
        else:
            place.mkdir()
            task.save_model(task.copy_of_original(), place)
        return weights_hash(place)
