"""Train ahead the models that a request will read from its cache, all or a share of them (`lethe pool`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lethe.core.task import Task
from lethe.errors import unknown_name
from lethe.judge.auditor import applicable
from lethe.pools.backends import backend
from lethe.pools.member import Member, Work
from lethe.pools.needed import of_shadows, of_yardstick
from lethe.pools.pool import FOLDER, Wanted
from lethe.pools.strategy import chosen
from lethe.pools.take import Take
from lethe.train.watchdog import Watchdog, watching
from lethe.work.audit import judged, shadows_of
from lethe.work.door.door import attend
from lethe.work.job import Job, Run, resolve
from lethe.work.open import Plan, original_files, prepare, read
from lethe.work.options import Options
from lethe.work.request import Request

What = Literal["all", "references", "shadows"]
State = Literal["done", "missing", "damaged"]


@dataclass(frozen=True)
class Place:
    """A member of the pools of a request: in which scenario, what for, and where it is kept."""

    scenario: str
    wanted: Wanted
    member: Member
    file: Path

    @property
    def state(self) -> State:
        if not self.file.exists():
            return "missing"
        return "done" if self.member.kept(self.file.parent) else "damaged"

    def row(self) -> dict[str, object]:
        """As plain data, for a table."""
        return {"scenario": self.scenario, "purpose": self.wanted.purpose, "member": self.member.number, "state": self.state,
                "file": self.file.name}


def places(request: Request, options: Options, scenario: str | None = None, what: str = "all", original: bool = True
           ) -> list[Place]:
    """Every model that the request will read from the cache, in a fixed order.

    original   whether the original is trained first where it must be: one process at a time does, the others of this cache
               wait and find it there
    """
    job = resolve(request, options)
    known = [case.name for case in job.opening.cases]
    if scenario is not None and scenario not in known:
        raise unknown_name("scenario", scenario, known)
    if what not in get_args(What):
        raise unknown_name("kind of model", what, get_args(What))
    plan = read(job, options)
    if original:
        attend(plan)
    return _places(plan, scenario, what, original)


def cached(request: Request, options: Options) -> list[Path]:
    """The models of the cache that the request reads, whether they are there or not: the original, then its pools."""
    plan = read(resolve(request, options), options)
    return [*original_files(plan), *(place.file for place in _places(plan, original=False))]


def _places(plan: Plan, scenario: str | None = None, what: str = "all", original: bool = True) -> list[Place]:
    """As `places`, of data and a model that were read."""
    job, found = plan.job, []
    assert job.cache is not None
    for name, scene in prepare(plan, original).items():
        for wanted in needed(job, scene.task, scene.runs, plan.options, what) if scenario in (None, name) else ():
            found += [Place(name, wanted, member, member.file(job.cache / FOLDER)) for member in wanted.members()]
    return found


def needed(job: Job, task: Task, runs: Sequence[Run], options: Options, what: str = "all") -> list[Wanted]:
    """The pools of one scenario: the yardstick, and the shadow models that the audits of this depth need."""
    judging, settings = job.judging, job.settings
    found = of_yardstick(task, judging.references, settings.seed, settings.device) if what != "shadows" else []
    task = expected(task, runs, job.watchdog)
    shadows = shadows_of(job, task, options) if what != "references" else None
    if shadows is not None:
        audits = [(audit, cfg) for audit, cfg in judging.audits
                  if not applicable(audit, task, judging.references, judging.reach, shadows.limit)]
        found += of_shadows(shadows, audits, settings.seed, judging.depth)
    return found


def expected(task: Task, runs: Sequence[Run], watchdog: Watchdog | bool | None) -> Task:
    """The task as audits will most likely see it: without the unseen data that a method declares, its watchdog scores on, or a
    search uses.

    Only the run itself knows what a method took; where this is wrong, the run trains the shadows that are missing.
    """
    unseen = task.has("holdout") and any(
        {"holdout", "holdout?"} & run.record.needs or watching(watchdog, run.record, task) for run in runs)
    return judged(task, unseen, any(run.method == "auto" for run in runs))


def train(found: Sequence[Place], take: Take, strategy: str, options: Options) -> int:
    """Train what is missing or damaged of a share; how many that were."""
    mine = [place for place in take.among(found) if place.state != "done"]
    for wanted in {id(place.wanted): place.wanted for place in mine}.values():
        group = [place for place in mine if place.wanted is wanted]
        work = Work(wanted.task, [place.member for place in group], wanted.device, group[0].file.parent, options.listener,
                    options.stop, wanted.purpose)
        name, reason = chosen(work, strategy)
        title = f"{group[0].scenario}, {wanted.purpose}" if group[0].scenario else wanted.purpose
        options.say(f"{title}: training {len(group)} models: {reason}")
        backend(name).train(work)
    return len(mine)
