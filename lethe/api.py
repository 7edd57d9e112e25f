"""The public functions: forget, audit, compare. Requests go the same way: `lethe.work`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lethe.core.config import plain
from lethe.core.events import Listener
from lethe.core.evidence import Depth
from lethe.core.outcome import Outcome
from lethe.core.task import Task
from lethe.judge.triage import triage
from lethe.pools.choose import choose
from lethe.report.report import Report
from lethe.train.apply import apply, method_of
from lethe.train.journal import listening
from lethe.train.loop import Settings
from lethe.train.stop import Stop
from lethe.train.watchdog import Watchdog
from lethe.work.audit import scenario
from lethe.work.execute import report_of
from lethe.work.files import audit_files
from lethe.work.forget import Made, run_all
from lethe.work.job import of_task
from lethe.work.options import Options
from lethe.work.procedure import procedure_of
from lethe.work.request import AuditPlan
from lethe.work.retrained import retrained

__all__ = ["audit", "audit_files", "choose", "compare", "forget", "triage"]


def forget(
    task: Task,
    method: str | object,
    *,
    seed: int | None = None,
    settings: Settings | None = None,
    modifiers: Mapping[str, Any] | None = None,
    watchdog: Watchdog | bool | None = None,
    folder: str | Path | None = None,
    progress: bool | Listener = True,
    stop: Stop | None = None,
    **options: Any,
) -> Outcome:
    """Run a method on a task.

    method    a name (`lethe methods` lists them) with its options as keywords, or a config object; "auto" searches
              methods and settings, see `lethe.methods.search.auto`
    watchdog  None: the usual one (`lethe.train.watchdog`) where there are retained or holdout data; False: none
    folder    where log and checkpoints go; an interrupted call continues from there when it is repeated
    progress  True: a bar on a terminal; or a listener to the run's events (`lethe.core.events`)
    stop      a token that ends the run after its step when it is set, e.g. by another thread (`lethe.train.stop`)
    Raises RequestError before any work when a name, an option or a need is wrong.
    """
    chosen = settings or Settings()
    if seed is not None:
        chosen = replace(chosen, seed=seed)
    return apply(task, *method_of(method, options), chosen, modifiers, watchdog, Path(folder) if folder is not None else None,
                 listening(progress), stop)


def audit(
    task: Task,
    unlearned: Outcome | nn.Module,
    *,
    depth: Depth = "standard",
    references: int | None = None,
    shadows: int | None = None,
    audits: Sequence[Any] = (),
    seed: int = 0,
    cache: Path | None = None,
    margins: Mapping[str, float] | None = None,
    progress: bool | Listener = True,
    stop: Stop | None = None,
) -> Report:
    """Examine one unlearned model beside the original and retrained references; references, shadows: how many, as `audit:` of a
    request says. progress, stop: as in `forget`."""
    began, options = time.perf_counter(), Options(None, "lethe.audit(…)", listener=listening(progress), stop=stop or Stop())
    outcome = unlearned if isinstance(unlearned, Outcome) else Outcome(unlearned, method="unlearned", task=task)
    label = outcome.method or "unlearned"
    plan = AuditPlan(depth=depth, references=references, shadows=shadows, audits=tuple(audits), margins=margins or {})
    config = {"depth": depth, "references": references, "shadows": shadows, "task": task.fingerprint,
              "margins": dict(margins or {})}
    job = of_task(task, [], plan, seed=seed, cache=cache, config=config)
    made = Made(label, outcome, method=outcome.config.get("name", ""), seed=outcome.config.get("settings", {}).get("seed"),
                procedure=procedure_of(outcome, job))
    return report_of(job, [scenario(job, task, [made], options, retrained(job, task, options))],
                     f"{label} on {task.name}", options, time.perf_counter() - began)


def compare(
    task: Task,
    methods: Sequence[str | Mapping[str, Any] | object],
    *,
    depth: Depth = "standard",
    references: int | None = None,
    shadows: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    cache: Path | None = None,
    title: str = "",
    margins: Mapping[str, float] | None = None,
    progress: bool | Listener = True,
    stop: Stop | None = None,
) -> Report:
    """Run several methods on the same task and compare them with the untouched model and with retraining, by one yardstick."""
    began, options = time.perf_counter(), Options(None, "lethe.compare(…)", listener=listening(progress), stop=stop or Stop())
    plan = AuditPlan(depth=depth, references=references, shadows=shadows, margins=margins or {})
    config = {"methods": [plain(m) for m in methods], "depth": depth, "references": references, "shadows": shadows,
              "task": task.fingerprint, "margins": dict(margins or {})}
    job = of_task(task, methods, plan, seed=seed, seeds=seeds, cache=cache, config=config)
    runs, yardstick = job.runs_on(task), retrained(job, task, options)
    case = scenario(job, task, run_all(job, task, runs, options, references=yardstick.known), options, yardstick)
    return report_of(job, [case], title or f"Comparison on {task.name}", options, time.perf_counter() - began)
