"""Every run of a job on one task. A method that fails is a row of its own and stops no other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from lethe.core.names import folder_name
from lethe.core.outcome import Outcome
from lethe.core.parked import parked
from lethe.core.task import Task
from lethe.errors import CheckpointCorrupted, LetheError, WorkerDied
from lethe.pools.subject import Procedure
from lethe.train.apply import NOTHING, perform
from lethe.train.memory import forget_peak
from lethe.train.watchdog import in_words
from lethe.work.failures import Failure, failure
from lethe.work.job import Job, Run
from lethe.work.options import Options
from lethe.work.procedure import procedure_of


@dataclass(frozen=True)
class Made:
    """The result of a run, or a model from elsewhere: an outcome, or a failure, or both where nothing was changed.

    name, label, method, variant, seed  as in `Run`; a model from elsewhere has no method and no seed
    procedure                           how it can be made again, where that is known
    heir                                of a model from elsewhere: whether its weights show that it comes from the original
    """

    name: str
    outcome: Outcome | None = None
    failure: Failure | None = None
    label: str = ""
    method: str = ""
    variant: int = 1
    seed: int | None = None
    procedure: Procedure | None = None
    heir: bool = False


@dataclass(frozen=True)
class Places:
    """Where a scenario keeps the files of its runs; None: they are not kept.

    work      logs and checkpoints, one folder a run      models    the unlearned models, one folder a run
    failures  tracebacks of what failed, beginning with the name of the scenario
    """

    work: Path | None = None
    models: Path | None = None
    failures: Path | None = None
    scenario: str = ""


def run_all(job: Job, task: Task, runs: Sequence[Run], options: Options, places: Places = Places(),
            references: Sequence[nn.Module] = ()) -> list[Made]:
    """The result of every run that the task can serve (see `Job.runs_on`). references: retrained models, for the watchdog."""
    return [_run(job, task, run, options, places, references) for run in runs]


def _run(job: Job, task: Task, run: Run, options: Options, places: Places, references: Sequence[nn.Module]) -> Made:
    options.stop.check()
    options.say(f"forgetting: {run.name}")
    made = Made(run.name, label=run.label, method=run.method, variant=run.variant, seed=run.seed)
    if run.obstacle:
        return replace(made, failure=Failure(run.obstacle))
    name = folder_name(run.name)
    work = places.work / name if places.work else None

    def performed() -> Outcome:
        return perform(task, run.record, run.cfg, replace(job.settings, seed=run.seed), job.seams, job.modifiers, job.watchdog,
                       work, options.listener, options.stop, references)

    try:
        forget_peak()
        try:
            outcome = performed()
        except CheckpointCorrupted as error:   # a damaged file costs the steps that it held, nothing else
            if work is None or job.settings.distribution != "none":
                raise
            options.warn(f"{error} Starting {run.name} afresh.")
            shutil.rmtree(work)
            outcome = performed()
        if outcome.unchanged:
            return replace(made, outcome=outcome, failure=Failure(in_words(outcome.fall) if outcome.fall else NOTHING))
        if places.models and not (places.models / name).exists():
            outcome.save(places.models / name)
        parked(outcome.model)   # a large one waits in a file until it is audited
        return replace(made, outcome=outcome, procedure=procedure_of(outcome, job, run))
    except Exception as error:   # any: a comparison of fifty methods continues
        if job.settings.distribution != "none" and not isinstance(error, LetheError):
            raise _alone(run, error) from error
        return replace(made, failure=failure(error, f"{places.scenario} {run.name}", places.failures))


def _alone(run: Run, error: Exception) -> WorkerDied:
    """What ends this process, and by torchrun all others: an unexpected error need not be theirs, and they may be waiting in an
    exchange that this process never joins. What all processes refuse alike (a LetheError) is a row as usual."""
    return WorkerDied(f"{run.name} failed in process {os.environ.get('RANK', '0')} of {os.environ.get('WORLD_SIZE', '1')} "
                      f"({type(error).__name__}: {error}), and the others cannot go on without it, so all of them end. Mend the "
                      "cause and repeat the command: it goes on from the last checkpoint.")
