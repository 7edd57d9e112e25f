"""One single-threaded worker per core, forked: the same bits as `serial` on one thread."""

from __future__ import annotations

import math
from functools import partial

from lethe.pools.contract import Backend
from lethe.pools.measure import seconds_per_step
from lethe.pools.member import Work, make
from lethe.pools.workers import in_processes, why_no_processes, workers_for


class Processes(Backend):
    """Members are dealt out as workers become free; nothing is pickled, since a fork shares the data."""

    measured = True

    def obstacle(self, work: Work) -> str:
        return why_no_processes(work.device)

    def train(self, work: Work) -> None:
        with work.units() as units:
            in_processes([partial(make, work, member) for member in work.members], workers_for(len(work.members)), units.done,
                         work.stop)

    def seconds(self, work: Work, steps: int, step: float) -> float:
        workers = workers_for(len(work.members))
        job = partial(seconds_per_step, work.task, work.members[0], work.device)   # all at once: they share the memory bus
        return steps * max(in_processes([job] * workers, workers)) * math.ceil(len(work.members) / workers)
