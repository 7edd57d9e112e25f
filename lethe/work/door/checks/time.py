"""How long the work takes: models that are trained to compare with, by a second of training here."""

from __future__ import annotations

import time
from collections.abc import Iterator

from lethe.core.seeds import derive
from lethe.pools.member import train_one
from lethe.work.door.door import Finding
from lethe.work.open import Plan

STAGE = 2
SECONDS = 1.0   # of training that are measured


def check(plan: Plan) -> Iterator[Finding]:
    """The time of training the references and shadows, one after the other. Only where all is to be told."""
    task = next(iter(plan.tasks.values()))
    if not plan.thorough or not task.has("recipe") or not task.has("retain"):
        return
    if task.recipe.code or task.trains_itself():   # neither can be ended after a second
        return
    seed, device = derive(plan.job.settings.seed, "time"), plan.job.settings.device
    train_one(task, task.retain, seed, device, 1e-3)   # the first step of a process takes far longer than the others
    began = time.perf_counter()
    loop, _ = train_one(task, task.retain, seed, device, SECONDS)
    seconds = time.perf_counter() - began
    each = seconds * task.recipe.epochs * len(task.retain) / max(1, loop.cost.examples)
    judging = plan.job.judging
    count = (judging.references and judging.references + 1) * len(plan.job.opening.cases) + (plan.original is None)
    shadows = f", and up to {judging.shadows} shadow models if a deep audit asks for them" if judging.shadows else ""
    yield Finding("ok", f"Training one model by the recipe takes about {_span(each)} here, the {count} that this request needs "
                  f"{_span(each * count)} one after the other{shadows}; they are kept for the next run.",
                  "" if each * count < 600 else "audit.references=3 is quicker and knows less; lethe pool uses several machines.")


def _span(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
