"""Calibrate: draw requests like one, find which method passes on them, and keep it as a policy for those to come.

A part of the draws chooses the method, the others say how often it passes: the share is not flattered by the choice. Each draw is
judged as a request of its own is, against models retrained without what it names. Runs know of no retrained models, as later runs
by the policy do not. Every finished draw is kept in the cache, so a command that was interrupted goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from lethe.core.config import digest, plain
from lethe.core.files import make_folder, write_json
from lethe.core.task import Task
from lethe.errors import OutOfRange, StorageError
from lethe.ledger import Ledger
from lethe.maths.statistics import clopper_pearson
from lethe.pools.choose import divided
from lethe.results.answers import Answers
from lethe.results.folder import LEDGER
from lethe.results.policy import Policy, Tried, load
from lethe.results.policy import plain as written
from lethe.results.schema import Row
from lethe.train.rehearsal import shares
from lethe.work.audit import scenario
from lethe.work.climb import answers_lack
from lethe.work.door.door import attend
from lethe.work.draws import Draw, drawn, sort_of
from lethe.work.forget import Places, run_all
from lethe.work.job import Job, resolve
from lethe.work.ladder import Rung, candidates, one_retraining, require_climbable
from lethe.work.open import Plan, original_of, read
from lethe.work.options import Options
from lethe.work.policy import parts_of, standing_settings
from lethe.work.request import Request
from lethe.work.retrained import retrained

SHARE, LEAST = 0.25, 3   # of the draws choose the method, at least so many          [ours]


@dataclass(frozen=True)
class Found:
    """What a calibration came to. policy: None where no method passed on any draw; blind: draws on which no test could tell."""

    policy: Policy | None
    tried: tuple[Tried, ...]
    blind: int
    draws: int


@dataclass(frozen=True)
class Verdict:
    """One method on one draw. passed: None where no test could have told."""

    method: str
    passed: bool | None
    cost: float
    why: str


def calibrate(request: Request, options: Options, count: int, output: Path) -> Found:
    """Draw `count` requests, choose a method on some and validate it on the others; write the policy and note it in the ledger.

    output  the file of the policy. Where an earlier, interrupted command has written this very policy, it is noted and stands
    """
    earlier = load(output) if output.exists() else None
    if count < LEAST + 2:
        raise OutOfRange(f"--requests {count}: {LEAST} choose a method and the others say how often it passes, so {LEAST + 2} "
                         "are the fewest; nothing was started. 20 or more say something.")
    job = resolve(request, options)
    plan = read(job, options)
    if earlier is not None and (earlier.until, earlier.parts) != (request.until, parts_of(plan)):
        raise _other(output)
    draws = drawn_for(plan, count)
    require_climbable(_task(plan, draws[0], plan.start))
    attend(plan)
    original = original_of(plan)
    choosing = max(LEAST, round(SHARE * count))
    rungs = candidates(job, _task(plan, draws[0], plan.start))
    options.say(f"{choosing} requests choose among {', '.join(rung.run.method for rung in rungs)}")
    first = [_judged(plan, draw, original, rungs, options) for draw in draws[:choosing]]
    tried = _tried(rungs, first)
    best = min(tried, key=lambda one: (-one.passed, one.cost or 0.0))
    if best.passed == 0:
        return Found(None, tried, _blind(first, best.method), count)
    chosen = next(rung for rung in rungs if rung.run.method == best.method)
    options.say(f"{count - choosing} other requests say how often {best.method} passes")
    rest = [_judged(plan, draw, original, [chosen], options) for draw in draws[choosing:]]
    policy = _policy(plan, chosen, tried, draws, rest)
    if policy is not None:
        policy = _kept(policy, earlier, output, job, options)
    return Found(policy, tried, _blind(rest, best.method), count)


def drawn_for(plan: Plan, count: int) -> list[Draw]:
    """Requests like that of a plan, which has one scenario."""
    cases = plan.job.opening.cases
    if len(cases) != 1 or "train" not in plan.opened.splits:
        raise OutOfRange(f"the request has {len(cases)} scenarios, and one is needed that the training data are divided by, so "
                         "that others can be drawn like it; nothing was calibrated. Write forget: {label: 3}, {count: 20}, …")
    sort_of(cases[0].selection)
    size = len(plan.splits[cases[0].name]["forget"])
    return drawn(plan.opened.splits["train"], cases[0].selection, size, count, plan.job.settings.seed)


def _task(plan: Plan, draw: Draw, model: nn.Module) -> Task:
    """The task of a drawn request."""
    others = {role: split for role, split in plan.opened.splits.items() if role not in ("train", "forget", "retain")}
    return plan.opened.task(model, {**divided(plan.opened.splits["train"], draw.mask), **others}, draw.name)


def _judged(plan: Plan, draw: Draw, original: nn.Module, rungs: Sequence[Rung], options: Options) -> list[Verdict]:
    """What becomes of a draw by each method; from the cache what an earlier command has found."""
    job = plan.job
    assert job.cache is not None
    key = digest([parts_of(plan), _judging(job), job.climb, draw.name, digest(draw.mask.tolist()), draw.seed, job.modifiers,
                  standing_settings(job), [[rung.run.method, rung.run.cfg] for rung in rungs]])
    file = job.cache / "calibrate" / f"{key}.json"
    if file.exists():
        return [Verdict(**one) for one in json.loads(file.read_text(encoding="utf-8"))]
    options.say(f"calibrating: {draw.name} ({draw.size} records)")
    seeded = replace(job, settings=replace(job.settings, seed=draw.seed))
    found = _carried_out(seeded, _task(plan, draw, original), rungs, options)
    make_folder(file.parent)
    write_json(file, [plain(one) for one in found])
    return found


def _judging(job: Job) -> dict[str, Any]:
    """What decides the verdicts of a job, without when its margins were declared."""
    parts = {key: value for key, value in vars(job.judging).items() if key not in ("asked", "audits", "declared")}
    return {**parts, "audits": [[audit.name, cfg] for audit, cfg in job.judging.audits]}


def _carried_out(job: Job, task: Task, rungs: Sequence[Rung], options: Options) -> list[Verdict]:
    assert job.climb is not None
    runs = [replace(rung.run, seed=job.settings.seed) for rung in rungs]
    made = run_all(job, task, runs, options, Places())
    case = scenario(job, task, made, options, retrained(job, task, options))
    control = next(row.answers for row in case.subjects if row.role == "retrained")
    whole = one_retraining(job, task)
    rows = {row.name: row for row in case.subjects if row.role == "method"}
    told = []
    for run, one in zip(runs, made, strict=True):
        cost = 0.0 if one.outcome is None else shares(one.outcome.cost, whole)
        passed, why = _passed(rows[run.name], control, job)
        told.append(Verdict(run.method, passed, cost, why))
    return told


def _passed(row: Row, control: Answers | None, job: Job) -> tuple[bool | None, str]:
    """Whether a model is as requested; None where no test could have told of one more retrained model."""
    assert job.climb is not None
    if row.error is not None or row.answers is None or control is None:
        return False, row.error or "no model"
    blind, missing = answers_lack(job.climb, row, control)
    return (None, blind) if blind else (not missing, "; ".join(missing))


def _tried(rungs: Sequence[Rung], found: Sequence[Sequence[Verdict]]) -> tuple[Tried, ...]:
    """How often each method passed where the method is chosen."""
    by = {rung.run.method: [one for verdicts in found for one in verdicts if one.method == rung.run.method] for rung in rungs}
    return tuple(Tried(method=name, passed=sum(one.passed is True for one in some),
                       requests=sum(one.passed is not None for one in some), cost=sum(one.cost for one in some) / len(some))
                 for name, some in by.items())


def _blind(found: Sequence[Sequence[Verdict]], method: str) -> int:
    return sum(one.passed is None for verdicts in found for one in verdicts if one.method == method)


def _policy(plan: Plan, rung: Rung, tried: tuple[Tried, ...], draws: Sequence[Draw], rest: Sequence[Sequence[Verdict]]
            ) -> Policy | None:
    """The policy of a method by the draws that did not choose it; None where none of them could be judged."""
    job = plan.job
    assert job.climb is not None
    verdicts = [one for found in rest for one in found]
    told = [one for one in verdicts if one.passed is not None]
    if not told:
        return None
    passed = sum(one.passed is True for one in told)
    low, high = clopper_pearson(passed, len(told))
    sort, column = sort_of(job.opening.cases[0].selection)
    return Policy(
        until=job.climb.until, method=rung.run.method, options=plain(rung.run.cfg), settings=standing_settings(job),
        modifiers=plain(job.modifiers), cost=sum(one.cost for one in told) / len(told), passed=passed, requests=len(told),
        low=low, high=high, blind=len(verdicts) - len(told), family=job.opening.family, sort=sort, column=column,
        smallest=min(draw.size for draw in draws), largest=max(draw.size for draw in draws), parts=parts_of(plan), tried=tried,
        created=datetime.now(UTC).isoformat(timespec="seconds"))


def _kept(policy: Policy, earlier: Policy | None, output: Path, job: Job, options: Options) -> Policy:
    """Write the policy, unless an earlier command has, and note it in the ledger of the runs."""
    assert job.output is not None
    if earlier is not None and earlier != policy.model_copy(update={"created": earlier.created}):
        raise _other(output)
    if earlier is None:
        make_folder(output.parent)
        write_json(output, written(policy))
    make_folder(job.output)
    kept = earlier or policy
    Ledger(job.output / LEDGER).calibrated(kept.id, written(kept), options.command, job.config)
    return kept


def _other(output: Path) -> StorageError:
    return StorageError(f"{output} exists and holds another policy, so it was not overwritten. Name another file: --output FILE.")
