"""Open a finished run again: the records it was trained on, the model from before, and the run itself once more.

What certificates need of a run beyond its files.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lethe.certificate import opening
from lethe.certificate.bundle import Bundle, Reopened, issue
from lethe.certificate.covered import covered
from lethe.certificate.gather import case_of
from lethe.certificate.keys import private_key, record_secret
from lethe.core.config import build
from lethe.core.task import Task
from lethe.errors import DataError, NeedsUnmet, RequestError
from lethe.results.schema import Row, Scenario
from lethe.train.apply import apply, method_of
from lethe.train.loop import Settings
from lethe.work.audit import judged
from lethe.work.commit import Noted, committed, of_task, runs_secret, saved_hash
from lethe.work.job import resolve
from lethe.work.open import learned, tasks_of
from lethe.work.options import Options
from lethe.work.request import Request, read


def certify(run: Path, key_file: Path, output: Path | None = None, method: str | None = None, scenario: str | None = None,
            declare: Path | None = None, options: Options | None = None) -> Bundle:
    """Write and sign the certificate of one model of a finished run (`lethe.certificate.bundle.issue`)."""
    return issue(run, key_file, partial(reopen, options=options or Options()), output, method, scenario, declare)


def reopen(run: Path, case: Scenario, secret: bytes, options: Options) -> Reopened:
    """The records and the original of a scenario of a run, as it noted them or, of a run from before runs did, read again;
    DataError when they are no longer those of the run."""
    return _noted(run, case, options).sealed(secret)


def opening_of(run: Path, key_file: Path, name: str, scenario: str | None, options: Options) -> list[dict[str, Any]]:
    """What lets a person find the records with this id in certificates of the run under a key. RequestError where none is."""
    if not key_file.exists():
        raise RequestError(f"{key_file} does not exist, and what opens a record follows from the key that signed; nothing was "
                           "written. Pass the --key of the certificate.")
    results, _ = covered(run)
    case = case_of(results, scenario)
    runs, issuer = runs_secret(run.parent), record_secret(private_key(key_file)[0])
    noted = _noted(run, case, options)
    mark = opening.mark_of(runs, name)
    found = [opening.opened(runs, issuer, name, kept[1]) for kept in (*noted.forget, *noted.retain)
             if len(kept) == 2 and kept[0] == mark]
    if not found:
        raise RequestError(f"the run has no training record with the id {name!r}, or noted its records before they could be "
                           "looked up; nothing was written. Check the id against the data.")
    return found


def _noted(run: Path, case: Scenario, options: Options) -> Noted:
    if (noted := committed(run, case.name)) is not None:
        return noted
    request = _request(run)
    task = _task(request, run, case, options)
    if not task.has("retain"):
        raise NeedsUnmet("the run has no retained records, so the data that the model was allowed to read are unknown; no "
                         "certificate was written. Add the retain data to the request.")
    return of_task(task, learned(resolve(request, options).opening), runs_secret(run.parent))


def reexecute(run: Path, case: Scenario, row: Row, options: Options) -> tuple[str, str]:
    """(hash of the weights before, after): the method once more, from the same original with the same seed."""
    request = _request(run)
    task = _task(request, run, case, options)
    beside = ("settings", "modifiers", *(["chosen"] if row.search else []))   # ftpo has an option called chosen
    config = {key: value for key, value in row.config.items() if key not in beside}
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
