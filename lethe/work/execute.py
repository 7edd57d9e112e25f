"""Carry out a request: resolve it, open it, forget, audit, write the run folder and the ledger.

A run folder `runs/<identity>/` holds request.yaml, results.json, report.html, the unlearned models (`models/`) and tracebacks
of what failed (`failures/`). It is named by what the run is made of (`lethe.core.identity`): repeating a finished request on
the same files shows its results, repeating an interrupted one goes on where it stopped (`lethe.work.lifecycle`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from lethe.core.config import plain
from lethe.core.files import sweep
from lethe.core.identity import Identity
from lethe.ledger import Ledger
from lethe.ledger.discretion import withheld
from lethe.report.answer import lopsided
from lethe.report.report import Report, load, without_figures, without_page
from lethe.results import schema
from lethe.results.frame import frame
from lethe.work.audit import scenario, sitting
from lethe.work.climb import climb, concluded
from lethe.work.commit import commit
from lethe.work.door.door import attend, refused, survey
from lethe.work.footprint import footprint
from lethe.work.forget import Places, run_all
from lethe.work.job import Job, resolve
from lethe.work.ladder import Ladder
from lethe.work.lifecycle import RESULTS, RunFolder, ledger_beside
from lethe.work.lock import locked, tidied
from lethe.work.open import Plan, Scene, describe, identified, original_files, prepare, read
from lethe.work.options import Options
from lethe.work.policy import require_covered
from lethe.work.request import Request
from lethe.work.retrained import Retrained, retrained


def carry_out(request: Request, options: Options) -> Report | None:
    """Forget with every method of the request on every scenario, audit, write the run folder and the ledger.

    Under torchrun every process trains and forgets; the first one audits and writes, the others return None.
    """
    job = resolve(request, options)
    plan, identity = identified(read(job, options))
    place = RunFolder(plan.job.folder)
    if plan.job.settings.distribution == "none" or os.environ.get("RANK", "0") == "0":
        return _led(plan, identity, place, options)
    if not (place.worked or _done(plan.job, place, options)):
        scenes = prepare(plan)
        _cases(plan, scenes, place, options, writes=False)
    return None


def _led(plan: Plan, identity: Identity, place: RunFolder, options: Options) -> Report:
    """The part of the first process: alone at the run, all of it or what an earlier one has left."""
    job = plan.job

    def waiting(holder: str) -> None:
        options.say(f"{holder} works on this run ({job.folder}); waiting for it")

    if place.settled and _done(job, place, options) and ledger_beside(job.folder).finished(job.hash):
        for lock in (place.lock, *(file.with_suffix(".lock") for file in original_files(plan))):
            tidied(lock)
        return _shown(place, options)   # without a lock: a finished run can be read where nothing can be written
    with locked(place.lock, waiting, options.stop):
        return _completed(plan, identity, place, options)


def _completed(plan: Plan, identity: Identity, place: RunFolder, options: Options) -> Report:
    """What is missing of the run: everything, or its end, or nothing."""
    job = plan.job
    sweep(place.final.parent)
    if place.worked and (results := place.results()) is not None and results.id == job.hash:
        options.say(f"the work of {place.final} is done; completing it")
        return _closed(Report(results), place, ledger_beside(place.final), options)
    if _done(job, place, options):
        place.settle(ledger_beside(place.final))
        return _shown(place, options)
    for missing in (without_page(), without_figures()):
        if missing and options.page:
            options.warn(missing)
    attend(plan)
    _ = plan.runs, plan.ladders   # every check that needs no training: what is refused leaves no trace
    if job.policy is not None:
        require_covered(job.policy, plan)
    ledger = ledger_beside(place.final)
    place.begin(job.config, identity)
    ledger.started(job.hash, job.title, options.command, job.config)
    try:
        report = _worked(plan, place, options)
        report.save(place.beside / RESULTS)
        return _closed(report, place, ledger, options)
    except BaseException as error:
        _note_failure(job, ledger, options, error)
        raise


def _worked(plan: Plan, place: RunFolder, options: Options) -> Report:
    """The work itself, each room visited once: data and models, pools, train, judge, results, ledger, certificate, report."""
    job, began = plan.job, time.perf_counter()
    scenes = prepare(plan)
    cases = _cases(plan, scenes, place, options)
    results = _framed(job, cases, job.headline, options, time.perf_counter() - began)
    if not options.show_ids:
        results = withheld(results, {str(name) for scene in scenes.values() for name in scene.task.forget.ids})
    if options.export:
        commit(place.beside, {name: scene.task for name, scene in scenes.items()}, plan.learned, place.final.parent)
    return Report(results)


def _cases(plan: Plan, scenes: Mapping[str, Scene], place: RunFolder, options: Options, writes: bool = True
           ) -> list[schema.Scenario]:
    """Every scenario: retrained models, the runs, the audits.

    writes   whether this process saves and audits, too; of several only the first one does, and the others find no scenarios
    """
    job, found = plan.job, []
    for name, scene in scenes.items():
        kept = Places(place.work(name), place.models(name) if options.export else None, place.failures, name)
        yardstick = retrained(job, scene.task, options)
        if job.climb is not None:
            found.append(_climbed(plan, scene, yardstick, kept, place, options))
            continue
        made = run_all(job, scene.task, scene.runs, options, kept if writes else Places(kept.work), yardstick.known)
        if writes:
            case = scenario(job, scene.task, made, options, yardstick, name=name, words=scene.words, failures=place.failures)
            found.append(case.model_copy(update={"policy": job.policy}))
    return found


def _climbed(plan: Plan, scene: Scene, yardstick: Retrained, places: Places, place: RunFolder, options: Options
             ) -> schema.Scenario:
    """A scenario whose methods are tried one after the other until one is as requested."""
    job, ladder = plan.job, plan.ladders[scene.name]
    court = sitting(job, scene.task, options, yardstick, unseen_used=True, searched=True)   # the search saw a part of the data
    final = partial(scenario, job, scene.task, options=options, retrained=yardstick, name=scene.name, words=scene.words,
                    failures=place.failures, court=court)
    return concluded(climb(job, scene.task, ladder, yardstick, options, places, final), places)


def _closed(report: Report, place: RunFolder, ledger: Ledger, options: Options) -> Report:
    """The end of a run whose results are written: table, page, ledger entry, swap."""
    if not ledger.covers(report.results.id, place.beside):   # otherwise all of it is there, as it was noted
        report.save(place.beside / "results.csv")
        report.save_leaderboard(place.beside)
        if options.page and not without_page():
            report.save(place.beside / "report.html")
    place.close(report.results, ledger)
    return report


def _note_failure(job: Job, ledger: Ledger, options: Options, error: BaseException) -> None:
    """Note what ended the run; where even that is impossible, the error itself says so."""
    try:
        ledger.record_failure(job.hash, job.config, options.command, f"{type(error).__name__}: {error}")
    except Exception as second:
        error.add_note(f"and the ledger could not note it: {second}")


def _done(job: Job, place: RunFolder, options: Options) -> bool:
    """Whether the finished run answers the request: it is to be repeated, or to save models that it has not saved."""
    if options.again or not place.finished:
        return False
    return not options.export or (place.final / "models").is_dir() or not any(
        row.role == "method" and not row.error for case in load(place.final).results.scenarios for row in case.subjects)


def _shown(place: RunFolder, options: Options) -> Report:
    options.say(f"{place.final} holds the finished run of this request; --again repeats it")
    return load(place.final)


def report_of(job: Job, cases: Sequence[schema.Scenario], title: str, options: Options, seconds: float, run: str = ""
              ) -> Report:
    """The report around finished scenarios. run: names it; default: the job's hash."""
    return Report(_framed(job, cases, title, options, seconds, run))


def _framed(job: Job, cases: Sequence[schema.Scenario], title: str, options: Options, seconds: float, run: str = ""
            ) -> schema.Results:
    return frame(run or job.hash, title, options.command, job.config, cases, seconds, job.settings.device,
                 torch.get_num_threads())


def _planned(ladder: Ladder) -> dict[str, Any]:
    """A ladder as a dry run shows it: costs in retrainings."""
    rungs = {rung.run.name: {
        "mechanism": rung.run.record.mechanism, "cost": round(rung.cost, 3), "chance": round(rung.chance, 2),
        "measured": "exact" if rung.exact else f"as requested in {rung.odds.passed:.0f} of {rung.odds.runs} runs like this"
                    if rung.odds.runs else "never on a request like this"} for rung in ladder.rungs}
    beyond = {} if ladder.beyond is None else {"beyond the budget": f"{ladder.beyond.run.name}, at 1"}
    return {"ladder": rungs, **beyond, "one retraining": f"{ladder.whole.steps} steps, {ladder.whole.examples} examples"}


def dry_run(request: Request, options: Options) -> dict[str, Any]:
    """What a request would do: sizes, steps, parameters, what the door finds. No method runs. Raises what speaks against it."""
    plan = replace(identified(read(resolve(request, options), options))[0], thorough=True)
    found = survey(plan)
    if (refusal := refused(found)) is not None:
        raise refusal
    job, opened, _ = plan.job, plan.opened, plan.runs
    if job.policy is not None:
        require_covered(job.policy, plan)
    plans: dict[str, Any] = {}
    for case in job.opening.cases:
        sizes = {key: len(split) for key, split in plan.splits[case.name].items()}
        plans[case.name or "request"] = {
            "request": describe(case.selection, plan.tasks[case.name], sizes["forget"], options.show_ids),
            "sizes": sizes,
            **(_planned(plan.ladders[case.name]) if job.climb else {"methods": [m["name"] for m in request.methods]}),
            "references": job.judging.references,
            **({"warning": lopsided(sizes)} if lopsided(sizes) else {}),
        }
    parameters = sum(p.numel() for p in plan.start.parameters())
    return {
        "id": job.hash, "folder": str(job.folder), "family": request.family, "parameters": parameters,
        "trains_original": opened.model is None, "recipe": plain(opened.recipe) if opened.recipe else None, "scenarios": plans,
        "checks": [f"{one.level}: {one.name}: {one.words}" for one in found],
        "memory_mb": round(footprint(plan.start, job.seams.where) / 1e6, 1),
    }
