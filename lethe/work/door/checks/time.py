"""How long the work takes: models that have to be trained, by a second of training here; and what judging a large model is."""

from __future__ import annotations

import time
from collections.abc import Iterator

from lethe.core.seeds import derive
from lethe.core.task import Task
from lethe.judge.auditor import applicable
from lethe.pools.member import train_one
from lethe.pools.pool import FOLDER
from lethe.work.door.door import Finding
from lethe.work.open import Plan, original_files
from lethe.work.pool import needed
from lethe.work.request import LARGE

STAGE = 2
SECONDS = 1.0   # of training that are measured


def check(plan: Plan) -> Iterator[Finding]:
    """The time of training what is not kept yet, one model after the other, only where all is to be told; and of a large model
    how many answer how many audits, which is most of the wait."""
    task = next(iter(plan.tasks.values()))
    yield from _judged(plan, task)
    if not plan.thorough or not task.has("recipe") or not task.has("retain"):
        return
    if task.recipe.code or task.trains_itself():   # neither can be ended after a second
        return
    count = _missing(plan)
    if not count:
        return
    seed, device = derive(plan.job.settings.seed, "time"), plan.job.settings.device
    train_one(task, task.retain, seed, device, 1e-3)   # the first step of a process takes far longer than the others
    began = time.perf_counter()
    loop, _ = train_one(task, task.retain, seed, device, SECONDS)
    seconds = time.perf_counter() - began
    each = seconds * task.recipe.epochs * len(task.retain) / max(1, loop.cost.examples)
    shadows = " (shadow models the most that its audits may ask for)" if plan.job.judging.shadows else ""
    yield Finding("ok", f"Training one model by the recipe takes about {_span(each)} here; {count} that this request needs "
                  f"{'is' if count == 1 else 'are'} not kept from before{shadows}: {_span(each * count)} one after the other.",
                  "" if each * count < 600 else "audit.references=3 is quicker and knows less; lethe pool uses several machines.")


def _judged(plan: Plan, task: Task) -> Iterator[Finding]:
    weights, judging = sum(p.numel() for p in plan.start.parameters()), plan.job.judging
    if weights <= LARGE:
        return
    retrained = judging.references if plan.opened.recipe is not None and task.has("retain") else 0
    beside = retrained + 1 if retrained else judging.neighbours
    audits = sum(not applicable(audit, task, retrained, judging.reach, judging.shadows) for audit, _ in judging.audits)
    yield Finding("warn", f"Of {weights / 1e9:.2g} billion weights forgetting is a small part of the wait, and judging the rest: "
                  f"{audits} audits ask {1 + beside + len(plan.job.runs)} models, {beside} of them only to compare with.",
                  "audit.audits=[scores, extraction] asks less, audit.references=0 audit.neighbours=0 compares with none.")


def _missing(plan: Plan) -> int:
    """How many models the work will train: the original, references and shadows that are not in the cache."""
    files, cache = original_files(plan), plan.job.cache
    if cache is not None:
        for name, task in plan.tasks.items():
            for wanted in needed(plan.job, task, plan.runs[name], plan.options):
                files += [member.file(cache / FOLDER) for member in wanted.members()]
    return sum(not file.exists() for file in files)


def _span(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
