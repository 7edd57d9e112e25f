"""Together: weights stacked to [N, …], one forward and backward for all; equal to `serial` up to rounding.

On a CPU every core stacks its share of the models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from lethe.pools import measure
from lethe.pools.contract import Backend, Unsuitable
from lethe.pools.member import Clock, Work, keep
from lethe.pools.stack import Stack, why_no_vmap
from lethe.pools.workers import in_processes, why_no_processes, workers_for
from lethe.train.stop import Stop

T = TypeVar("T")


class Vmap(Backend):
    """`torch.func.vmap` over the models (`lethe.pools.stack`)."""

    measured = True

    def obstacle(self, work: Work) -> str:
        splits = [member.split for member in work.members]
        return why_no_vmap(work.task, splits, work.device) or stacked(replace(work, members=work.members[:2])).disagreement()

    def train(self, work: Work) -> None:
        with work.units() as units:
            each([partial(together, share) for share in dealt(work)], work.stop)
            units.done(len(work.members))

    def seconds(self, work: Work, steps: int, step: float) -> float:
        return steps * max(each([partial(tried, share) for share in dealt(work)]))


def stacked(work: Work) -> Stack:
    """The members of this work as one stack, before the first step."""
    return Stack(work.task, [m.split for m in work.members], [m.seed for m in work.members], work.device)


def dealt(work: Work) -> list[Work]:
    """The members dealt out to the cores, where more than one process can work."""
    return work.shares(1 if why_no_processes(work.device) else workers_for(len(work.members)))


def together(work: Work) -> None:
    """Train and keep all members of this work."""
    stack = stacked(work)
    clock = Clock(work.device)
    trained = stack.train(work.stop)
    took = clock.facts(len(work.members))
    for member, tensors in zip(work.members, trained, strict=True):
        keep(work, member, tensors, took)


def tried(work: Work) -> float:
    """Seconds per step of this stack, measured. Raises Unsuitable when its losses are not those of the models alone."""
    stack = stacked(work)
    if why := stack.disagreement():
        raise Unsuitable(why)
    return stack.seconds_per_step(measure.PROBE)


def each(jobs: Sequence[Callable[[], T]], stop: Stop | None = None) -> list[T]:
    """A process for each job, none for a single one. A stack has no finished model before its end, so `stop` cuts it off."""
    return [job() for job in jobs] if len(jobs) == 1 else in_processes(jobs, len(jobs), stop=stop, patience=0.2)
