"""The methods can do their work on this request: what each needs is there, before anything is started."""

from __future__ import annotations

from collections.abc import Iterator

from lethe.errors import LetheError
from lethe.work.door.door import Finding
from lethe.work.open import Plan
from lethe.work.policy import require_covered

STAGE = 2


def check(plan: Plan) -> Iterator[Finding]:
    """What run and compare refuse of methods, ladder and policy. Only where all is to be told: they refuse it themselves."""
    if not plan.thorough:
        return
    try:
        names = list(dict.fromkeys(run.method for runs in plan.runs.values() for run in runs if not run.obstacle))
        _ = plan.ladders
        if plan.job.policy is not None:
            require_covered(plan.job.policy, plan)
    except LetheError as error:   # there is nothing to accept
        yield Finding("error", str(error), cause=error)
        return
    if names:
        yield Finding("ok", f"What {f'{names[0]} needs' if len(names) == 1 else f'{len(names)} methods need'} is there.")
