"""How a model was made, repeatable on other models, data and seeds: what attacks with shadow models run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from lethe.core.config import digest
from lethe.core.outcome import Outcome
from lethe.core.registry import Method
from lethe.core.task import Task
from lethe.pools.procedures import NOTHING, RETRAIN
from lethe.pools.subject import Procedure
from lethe.train.apply import method_of, perform, require
from lethe.train.loop import Modifiers, Settings
from lethe.train.watchdog import Watchdog
from lethe.work.job import Job, Run


def procedure_of(outcome: Outcome, job: Job, run: Run | None = None) -> Procedure | None:
    """How Lethe made this model: by a run of the job or, from elsewhere, by what the outcome records; None where it is unknown.

    Of a search: what it chose, not the search.
    """
    found = outcome.config.get("chosen")
    chosen = found if isinstance(found, Mapping) else None   # methods have options of that name
    weights = outcome.kind == "weights"
    if run is not None and chosen is None:
        return repeated(run.record, run.cfg, job.settings, job.seams, job.modifiers, job.watchdog, weights)
    options: Mapping[str, Any] = chosen or {key: value for key, value in outcome.config.items()
                                            if key not in ("settings", "modifiers")}
    if "name" not in options:
        return None
    if options["name"] == "nothing":
        return NOTHING
    record, cfg = method_of(options)
    return repeated(record, cfg, job.settings, job.seams, job.modifiers, job.watchdog, weights)


def repeated(record: Method, cfg: object, settings: Settings, seams: Modifiers = Modifiers(),
             modifiers: Mapping[str, Any] | None = None, watchdog: Watchdog | bool | None = None, weights: bool = True
             ) -> Procedure:
    """A method with its options, to be run on another task with another seed.

    weights  whether what it makes has the tensors of the original
    """
    if record.name == "retrain":
        return RETRAIN
    unlimited, asked = replace(settings, max_minutes=None), dict(modifiers or {})

    def again(task: Task, seed: int) -> nn.Module:
        require(task, record, cfg)   # another task than the job's
        return perform(task, record, cfg, replace(unlimited, seed=seed), seams, asked, watchdog).answering

    key = digest([record.name, cfg, replace(unlimited, seed=0), asked, watchdog])
    return Procedure(key, again, weights=weights, heir=record.mechanism != "exact")
