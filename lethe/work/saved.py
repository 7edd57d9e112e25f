"""Audit saved models of any origin on the tasks of a request: those of a finished run again, or one from elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lethe.core.config import digest
from lethe.core.evidence import Depth
from lethe.core.guard import as_served
from lethe.core.outcome import Outcome
from lethe.errors import DataError, RequestError, StorageError
from lethe.ledger import Ledger
from lethe.report.report import Report, load
from lethe.results.folder import ledger_of, models_kept
from lethe.work.audit import scenario
from lethe.work.door.door import attend
from lethe.work.execute import report_of
from lethe.work.forget import Made
from lethe.work.job import resolve
from lethe.work.lifecycle import parts_of
from lethe.work.open import Plan, identified, prepare, read
from lethe.work.options import Options
from lethe.work.request import Request
from lethe.work.retrained import retrained


def audit_saved(request: Request, options: Options, unlearned: Path | None, depth: Depth, run: Path | None = None) -> Report:
    """Audit a saved model, or else those that `run` has saved, on the tasks of a request."""
    job, began = resolve(request, options), time.perf_counter()
    models = saved_models(request, unlearned, run)
    job = replace(job, judging=replace(job.judging, depth=depth))
    plan = read(replace(job, runs=()), options)
    job = replace(job, judging=plan.job.judging, config=plan.job.config)
    if unlearned is None and run is not None:
        _require_same(plan, run)
    attend(plan)
    scenes = prepare(plan)
    halved = _halved(run) if unlearned is None else set()
    cases, names = [], [str(path) for paths in models.values() for path in paths]
    for name, paths in models.items():
        scene = scenes[name]
        made = [Made(path.name, Outcome(as_served(path, plan.opened.load(path)), method=path.name, task=scene.task,
                                        unseen_used=name in halved)) for path in paths]
        cases.append(scenario(job, scene.task, made, options, retrained(job, scene.task, options), name=name, words=scene.words))
    return report_of(job, cases, f"Audit ({depth}) of {', '.join(names)}", options, time.perf_counter() - began,
                     digest([job.hash, names, depth]))


def saved_plan(request: Request, unlearned: Path | None, depth: Depth, run: Path | None = None) -> dict[str, Any]:
    """What `audit_saved` would do."""
    models = saved_models(request, unlearned, run)
    return {"models": {name or "request": [str(path) for path in paths] for name, paths in models.items()}, "depth": depth,
            "references": request.audit.counts().references}


def saved_models(request: Request, unlearned: Path | None, run: Path | None) -> Mapping[str, Sequence[Path]]:
    """The models to audit, by scenario; RequestError when there are none."""
    if unlearned:
        return {name: [unlearned] for name in request.cases}
    found = {} if run is None else {name: sorted(p for p in models_kept(run, name, list(request.cases)).glob("*") if p.is_dir())
                                    for name in request.cases}
    models = {name: paths for name, paths in found.items() if paths}
    if not models:
        raise RequestError(f"{run or 'a request'} holds no saved model to audit, so there is nothing to do. Pass --unlearned "
                           "FOLDER, or run with `lethe run`, which saves the model.")
    return models


def _require_same(plan: Plan, run: Path) -> None:
    """DataError when the files of a run are no longer what it was made of: its models would be compared with another original.
    StorageError when its models are not those that its ledger noted."""
    made_of = parts_of(run)
    changed = identified(plan)[1].changed(made_of) if made_of else []
    if changed:
        raise DataError(f"{', '.join(changed)} changed since {run} was made, so its models would be compared with what they were "
                        "not made from; nothing was audited. Restore the files, or run the request again: on other files it is "
                        "another run.")
    if ledger_of(run).exists() and (other := Ledger(ledger_of(run)).changed_artefacts(run.resolve().name)):
        raise StorageError(f"{', '.join(other[:3])} of {run} are not what the ledger noted when the run ended, so another model "
                           "than the run's would be audited; nothing was. Compare with a backup, or repeat the run with --again.")


def _halved(run: Path | None) -> set[str]:
    """The scenarios of a finished run in which a method looked at half of holdout."""
    if run is None or not (run / "results.json").exists():
        return set()
    return {case.name for case in load(run).results.scenarios if "reference" in case.sizes}
