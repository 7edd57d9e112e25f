"""Open a finished run again: the records it was trained on, the model from before, and the run itself once more.

What certificates need of a run beyond its files.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from lethe.certificate.bundle import Bundle, Reopened, issue
from lethe.core.config import build
from lethe.core.task import Task
from lethe.errors import DataError, NeedsUnmet
from lethe.results.schema import Row, Scenario
from lethe.train.apply import apply, method_of
from lethe.train.loop import Settings
from lethe.work.audit import judged
from lethe.work.commit import committed, of_task, saved_hash
from lethe.work.job import resolve
from lethe.work.open import tasks_of
from lethe.work.options import Options
from lethe.work.request import Request, read


def certify(run: Path, key_file: Path, output: Path | None = None, method: str | None = None, scenario: str | None = None,
            declare: Path | None = None, options: Options | None = None) -> Bundle:
    """Write and sign the certificate of one model of a finished run (`lethe.certificate.bundle.issue`)."""
    return issue(run, key_file, partial(reopen, options=options or Options()), output, method, scenario, declare)


def reopen(run: Path, case: Scenario, secret: bytes, options: Options) -> Reopened:
    """The records and the original of a scenario of a run, as it noted them or, of a run from before runs did, read again;
    DataError when they are no longer those of the run."""
    if (noted := committed(run, case.name, secret)) is not None:
        return noted
    request = _request(run)
    task = _task(request, run, case, options)
    if not task.has("retain"):
        raise NeedsUnmet("the run has no retained records, so the data that the model was allowed to read are unknown; no "
                         "certificate was written. Add the retain data to the request.")
    return of_task(task, resolve(request, options).opening, secret)


def reexecute(run: Path, case: Scenario, row: Row, options: Options) -> tuple[str, str]:
    """(hash of the weights before, after): the method once more, from the same original with the same seed."""
    request = _request(run)
    task = _task(request, run, case, options)
    config = {key: value for key, value in row.config.items() if key not in ("settings", "modifiers", "chosen")}
    record, cfg = method_of(config)
    outcome = apply(task, record, cfg, build(Settings, row.config["settings"]), row.config["modifiers"],
                    resolve(request, options).watchdog)
    return saved_hash(task, None), saved_hash(task, outcome)


def _request(run: Path) -> Request:
    return replace(read(run / "request.yaml"), output=str(run.parent))


def _task(request: Request, run: Path, case: Scenario, options: Options) -> Task:
    task = tasks_of(request, options)[case.name]
    audited = judged(task, "reference" in case.fingerprints, any(row.search for row in case.subjects))
    changed = [name for name, value in audited.fingerprint.items() if case.fingerprints.get(name) != value]
    if changed:
        raise DataError(f"{', '.join(changed)} of {run} are not what the run used (fingerprints differ), so a "
                        "certificate would be about other data. Restore data, software and threads, or repeat with --again.")
    return task
