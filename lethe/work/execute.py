"""Carry out a request: resolve it, open it, forget, audit, write the run folder and the ledger.

A run folder `runs/<hash>/` holds request.yaml, results.json, report.html, the unlearned models (`models/`), tracebacks of what
failed (`failures/`), and logs and checkpoints while it runs (`work/`). It is named by the hash of the effective request:
repeating a finished request shows its results, repeating an interrupted one goes on where it stopped.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from lethe.core.config import digest, plain
from lethe.core.files import private_folder, write_text
from lethe.ledger import Ledger
from lethe.ledger.discretion import withheld
from lethe.report.answer import lopsided
from lethe.report.report import Report, load
from lethe.results import schema
from lethe.results.folder import models_folder
from lethe.results.frame import frame
from lethe.work.audit import scenario
from lethe.work.forget import Places, run_all
from lethe.work.job import Job, resolve
from lethe.work.open import Scene, checked, describe, draft, prepare, read
from lethe.work.options import Options
from lethe.work.request import Request


def carry_out(request: Request, options: Options) -> Report | None:
    """Forget with every method of the request on every scenario, audit, write the run folder and the ledger.

    Under torchrun every process trains and forgets; the first one audits and writes, the others return None.
    """
    job = resolve(request, options)
    if (job.folder / "results.json").exists() and not options.again:
        options.say(f"{job.folder} holds the finished run of this request; --again repeats it")
        return load(job.folder)
    if job.settings.distribution != "none" and os.environ.get("RANK", "0") != "0":
        for scene in prepare(job, options).scenes.values():
            run_all(job, scene.task, scene.runs, options, Places(_work(job, scene.name)))
        return None
    return _lead(job, options)


def _lead(job: Job, options: Options) -> Report:
    """The part of the first process: everything."""
    folder = job.folder
    if options.again:
        shutil.rmtree(folder, ignore_errors=True)
    ledger = Ledger(folder.parent / "ledger.sqlite")
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "request.yaml", yaml.safe_dump(job.config, sort_keys=False, allow_unicode=True), private=True)
    ledger.started(job.hash, job.title, options.command, job.config)
    try:
        scenes = prepare(job, options).scenes.values()
        cases = [_case(job, scene, options) for scene in scenes]
    except BaseException as error:
        ledger.record_failure(job.hash, job.config, options.command, f"{type(error).__name__}: {error}")
        raise
    report = report_of(job, cases, job.headline, options, time.perf_counter() - began)
    if not options.show_ids:
        report = Report(withheld(report.results, {str(name) for scene in scenes for name in scene.task.forget.ids}))
    if options.page:
        report.save(folder / "report.html")
    report.save(folder / "results.csv")
    report.save_leaderboard(folder)
    report.save(folder / "results.json")   # last: its presence says that the run is finished
    shutil.rmtree(folder / "work", ignore_errors=True)
    ledger.record(report.results, folder)
    return report


def report_of(job: Job, cases: Sequence[schema.Scenario], title: str, options: Options, seconds: float, run: str = ""
              ) -> Report:
    """The report around finished scenarios. run: names it; default: the job's hash."""
    return Report(frame(run or job.hash, title, options.command, job.config, cases, seconds, job.settings.device,
                        torch.get_num_threads()))


def _case(job: Job, scene: Scene, options: Options) -> schema.Scenario:
    failures = job.folder / "failures"
    models = models_folder(job.folder, scene.name) if options.export else None
    made = run_all(job, scene.task, scene.runs, options, Places(_work(job, scene.name), models, failures, scene.name))
    return scenario(job, scene.task, made, options, name=scene.name, words=scene.words, failures=failures)


def _work(job: Job, scenario_name: str) -> Path:
    """Where logs and checkpoints of a scenario stand while it is worked on."""
    return private_folder(job.folder / "work") / digest(scenario_name)


def dry_run(request: Request, options: Options) -> dict[str, Any]:
    """What a request would do: sizes, steps, parameters; nothing is trained."""
    job = resolve(request, options)
    opened = read(job, options)
    start = opened.model or (opened.fresh(job.settings.seed) if opened.build else None)
    plans: dict[str, Any] = {}
    for case in job.opening.cases:
        splits = draft(opened, case)
        sizes = {key: len(split) for key, split in splits.items()}
        if start is not None:
            checked(job, opened, start, splits)
        plans[case.name or "request"] = {
            "request": describe(case.selection, sizes["forget"], options.show_ids),
            "sizes": sizes,
            "methods": [m["name"] for m in request.methods],
            "references": job.judging.references,
            **({"warning": lopsided(sizes)} if lopsided(sizes) else {}),
        }
    parameters = sum(p.numel() for p in start.parameters()) if start is not None else None
    return {
        "id": job.hash, "folder": str(job.folder), "family": request.family, "parameters": parameters,
        "trains_original": opened.model is None, "recipe": plain(opened.recipe) if opened.recipe else None, "scenarios": plans,
        "memory_mb": None if parameters is None else round(parameters * 4 * 4 / 1e6, 1),
    }
