"""Run by a policy: what it was calibrated on, and whether a request is such a one."""

from __future__ import annotations

from typing import Any

import torch

from lethe.core import training
from lethe.core.alike import of_classes_that_leave
from lethe.core.config import digest, plain
from lethe.core.identity import NUMBERS, code_of
from lethe.core.modules import state_fingerprint
from lethe.errors import LetheError, RequestError
from lethe.results.policy import WORDS, Policy
from lethe.work.draws import sort_of
from lethe.work.job import Job
from lethe.work.open import Plan

PARTS = {"model": "the model", "data": "its training data", "recipe": "its recipe", "numbers": "the version of Lethe's numbers"}


def parts_of(plan: Plan) -> dict[str, str]:
    """Digests of what a policy is calibrated on. A model that is trained here is named by what it is trained from."""
    model = digest([state_fingerprint(plan.start), code_of(plan.start)])
    return {"model": plan.training[1].stem if plan.original is None else model,
            "data": "" if plan.train is None else plan.train.fingerprint,
            "recipe": digest(training.identity(plan.opened.recipe)) if plan.opened.recipe else "",
            "numbers": digest([NUMBERS, str(torch.__version__)])}


def standing_settings(job: Job) -> dict[str, Any]:
    """The settings of a job that decide its results, without seed and device."""
    return {key: value for key, value in plain(job.settings).items() if key not in ("seed", "device", "tensorboard",
                                                                                   "checkpoint_seconds", "cache_mb")}


def require_covered(policy: Policy, plan: Plan) -> None:
    """RequestError, by name, where a request lies outside what a policy was calibrated on; before anything is trained."""
    job, wrong = plan.job, []
    if policy.family != job.opening.family:
        wrong.append(f"it was calibrated for {policy.family}, and this is {job.opening.family}")
    now = parts_of(plan)
    wrong += [f"{words} changed since" for part, words in PARTS.items() if policy.parts.get(part) != now[part]]
    if standing_settings(job) != policy.settings or plain(job.modifiers) != policy.modifiers:
        wrong.append("settings or modifiers are not those of its runs")
    for case in job.opening.cases:
        where = f" of {case.name!r}" if case.name else ""
        wrong += [f"{why}{where}" for why in _outside(policy, case.selection, plan, case.name)]
    if wrong:
        raise RequestError(f"policy {policy.id} does not cover this request: {'; '.join(wrong)}. Nothing was started. Calibrate "
                           "on requests like it (lethe calibrate REQUEST), or choose a method and let it be judged (lethe run "
                           "REQUEST).")


def _outside(policy: Policy, selection: Any, plan: Plan, name: str) -> list[str]:
    """What of one forget set was not calibrated."""
    try:
        sort, column = sort_of(selection)
    except LetheError:
        return [f"it was calibrated on {WORDS[policy.sort]}, and this forget set is chosen otherwise"]
    splits = plan.splits[name]
    if sort == "records" and "retain" in splits and of_classes_that_leave(splits["forget"], splits["retain"]):
        sort = "class"   # all its records, one by one
    wrong = []
    if (sort, column) != (policy.sort, policy.column):
        shown = f" ({column})" if column else ""
        known = f"{WORDS[policy.sort]}{f' ({policy.column})' if policy.column else ''}"
        wrong.append(f"it was calibrated on {known}, and this request names {WORDS[sort]}{shown}")
    size = len(splits["forget"])
    if not policy.smallest <= size <= policy.largest:
        wrong.append(f"it was calibrated on {policy.smallest} to {policy.largest} records, and this request names {size}")
    return wrong
