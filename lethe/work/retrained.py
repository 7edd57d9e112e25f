"""Models retrained without the forget set: the watchdogs of the runs compare with them, then the audits do.

They come before any method, are needed afterwards in any case, and do not depend on what a method does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from lethe.core.task import Task
from lethe.pools.needed import of_yardstick
from lethe.pools.pool import Pool, Wanted
from lethe.work.job import Job
from lethe.work.options import Options


@dataclass(frozen=True, eq=False)
class Retrained:
    """The references of a task, and one more model outside them: the row that a perfect method would equal.

    wanted    what of them is trained, when it is first asked for and once; empty: nothing
    provided  models that somebody passed as references; then none is trained
    """

    job: Job
    options: Options
    wanted: Sequence[Wanted] = ()
    provided: Sequence[nn.Module] = ()

    @cached_property
    def pools(self) -> tuple[Pool, ...]:
        """The references, one more and, where it is wanted, the control of the original's training; empty: none is trained."""
        ways = [self.job.judging.strategy, *["serial"] * len(self.wanted)]
        return tuple(one.train(way, self.job.cache, self.options.listener, self.options.stop)
                     for one, way in zip(self.wanted, ways, strict=False))

    @property
    def known(self) -> Sequence[nn.Module]:
        """The references that the runs may know of. Of several processes only the first trains them, and the others would wait
        for it within the run: there the runs know of none, and the audits train them."""
        alone = self.job.settings.distribution == "none"
        return self.pools[0].models if alone and self.pools else ()


def retrained(job: Job, task: Task, options: Options) -> Retrained:
    """The yardstick of a task as the job wants it, trained as far as the runs need it."""
    settings = job.settings
    return Retrained(job, options, of_yardstick(task, job.judging.references, settings.seed, settings.device))
