"""Open a job: read model and data, train the original if it came without weights, make one task per scenario."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lethe.core.config import build, digest, plain
from lethe.core.modules import named_tensors, seeded
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.data.context import Context
from lethe.data.select import Where, divide
from lethe.errors import NeedsUnmet, RequestError
from lethe.models.opened import Opened
from lethe.pools import choose
from lethe.report.answer import lopsided
from lethe.train.checkpoint import load_tensors, save_tensors
from lethe.train.loop import Loop, Settings
from lethe.work.job import Job, Run, resolve
from lethe.work.options import Options
from lethe.work.request import Request


@dataclass(frozen=True)
class Scene:
    """One scenario, ready: its task, the runs that the task can serve, the request in words."""

    name: str
    task: Task
    runs: tuple[Run, ...]
    words: str


@dataclass(frozen=True)
class Prepared:
    """An opened job with its model trained: one scene per scenario, by name."""

    opened: Opened
    scenes: Mapping[str, Scene]

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks by the name of their scenario."""
        return {name: scene.task for name, scene in self.scenes.items()}


def read(job: Job, options: Options) -> Opened:
    """Let the family read `model` and `data`."""
    source = job.opening
    assert job.cache is not None
    opened = source.read(source.request, Context(options.data_root, job.cache, options.allow_pickle, options.say))
    if source.recipe is not None:
        opened.recipe = source.recipe
    if opened.model is None and opened.recipe is None:
        raise NeedsUnmet("the request has neither trained weights (model.weights, model.folder) nor a recipe to train them, so "
                         "there is nothing to forget from. Add one of them.")
    return opened


def prepare(job: Job, options: Options, train: bool = True) -> Prepared:
    """Open the job, check every scenario, train the original if it came without weights, and make the tasks.

    train   False: a fresh model stands in for an original that is not trained yet; RequestError where it has to choose examples
    """
    opened = read(job, options)
    for selection in job.opening.scenarios.values():
        doubt = lopsided({key: len(split) for key, split in parts(opened, stand_in(opened, selection)).items()})
        if doubt:
            options.warn(doubt)
    model, runs = opened.model, {}
    if model is None:
        runs = {name: checked(job, opened, selection) for name, selection in job.opening.scenarios.items()}
        if train or _training(opened, job.settings, job.cache)[1].exists():
            options.say("training the original model")
            model = original_of(job, opened, options)
        else:
            model = _untrained(job, opened)
    scenes = {}
    for name, selection in job.opening.scenarios.items():
        chosen = _chosen(opened, selection, model, job.cache)
        splits = parts(opened, selection if chosen is None else chosen.mask)
        task = _task(opened, model, splits, name or job.title or job.opening.request.family)
        task.facts.update(opened.facts, **({} if chosen is None else {"chosen": chosen.facts}))
        scenes[name] = Scene(name, task, runs[name] if name in runs else job.runs_on(task),
                             describe(selection, len(splits["forget"])))
    return Prepared(opened, scenes)


def tasks_of(request: Request, options: Options) -> dict[str, Task]:
    """The tasks of a request, by the name of their scenario; its methods are left out."""
    return prepare(replace(resolve(request, options), runs=()), options).tasks


def checked(job: Job, opened: Opened, selection: Any) -> tuple[Run, ...]:
    """The runs that the task of a selection can serve, after every check of data, model and methods; raises what is wrong.

    The task is made on this model or, where that is yet to be trained, on a fresh one.
    """
    start = opened.model or seeded(builder(opened), job.settings.seed)
    return job.runs_on(_task(opened, start, parts(opened, stand_in(opened, selection)), "checks"))


def original_of(job: Job, opened: Opened, options: Options) -> nn.Module:
    """The original: the provided model, or one trained by the recipe on everything (from the cache if it is there)."""
    assert job.cache is not None
    return opened.model or trained(opened, job.settings, job.cache, options)


def trained(opened: Opened, settings: Settings, cache: Path, options: Options) -> nn.Module:
    """The original model, trained by the recipe on everything, from the cache if it is there."""
    assert opened.recipe is not None
    task, path = _training(opened, settings, cache)
    loop = Loop(task, settings, folder=path.with_suffix(""), listener=options.listener, title="original", stop=options.stop)
    model = loop.start(task.build(settings.seed))
    if path.exists():
        return loop.restored(model, load_tensors(path)[0])
    task.train(model, opened.splits["train"], opened.recipe, loop)
    outcome = loop.finish(model)
    if loop.distribution.first:
        save_tensors(path, named_tensors(outcome.model), {"seconds": outcome.cost.seconds})
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    return outcome.model


def _training(opened: Opened, settings: Settings, cache: Path | None) -> tuple[Task, Path]:
    """The task on which the original is trained, and the file of the cache that holds it afterwards."""
    assert cache is not None
    start = seeded(builder(opened), settings.seed)
    others = {k: v for k, v in opened.splits.items() if k in ("holdout", "test")}
    task = opened.task(start, {"retain": opened.splits["train"], **others}, "training")
    key = digest([task.fingerprint, plain(opened.recipe), settings.seed, settings.precision])
    return task, cache / "original" / f"{key}.safetensors"


def _untrained(job: Job, opened: Opened) -> nn.Module:
    """A fresh model instead of the original, for what depends on data and architecture alone."""
    choosing = [name or "the request" for name, selection in job.opening.scenarios.items() if choose.asked(selection)]
    if choosing:
        raise RequestError(f"the original chooses what {', '.join(choosing)} forgets, and it is not trained yet, so its models "
                           "cannot be listed. lethe pool without --list trains it first.")
    return seeded(builder(opened), job.settings.seed)


def builder(opened: Opened) -> Callable[[int], nn.Module]:
    """How a fresh model is made from a seed; RequestError when the request does not define it."""
    if opened.build is None:
        raise RequestError("the model came without weights and without a way to build it, so there is nothing to train. Set "
                           "model.code or model.zoo.")
    return opened.build


def describe(selection: Any, count: int) -> str:
    """The request in words."""
    if isinstance(selection, Mapping):
        inner = ", ".join(f"{key} {value}" for key, value in selection.items())
        return f"forget {inner} ({count} examples)"
    return f"forget {count} examples"


def parts(opened: Opened, selection: Any) -> dict[str, Split]:
    """The splits of a task: the training data divided by the selection, or as the data are already divided."""
    others = {key: split for key, split in opened.splits.items() if key not in ("train", "forget", "retain")}
    if selection is None:
        if "forget" not in opened.splits:
            raise RequestError("the request does not name what to forget, so nothing was started. Add forget: {label: 3}, "
                               "{ids: […]}, {fraction: 0.1}, {query: …}, {entity: …}, {text: …}; or data.forget.")
        return {**{key: opened.splits[key] for key in ("forget", "retain") if key in opened.splits}, **others}
    forgotten, retained = divide(opened.splits["train"], selection)
    return {"forget": forgotten, "retain": retained, **others}


def stand_in(opened: Opened, selection: Any) -> Any:
    """The selection itself or, of one that needs the model, as many examples as it will choose."""
    wanted = choose.asked(selection)
    if wanted is None:
        return selection
    allowed = _among(opened, wanted[2])
    choose.require_room(wanted[1].count, len(allowed), int(allowed.sum()))
    return np.flatnonzero(allowed)[: wanted[1].count]


def _task(opened: Opened, model: nn.Module, splits: dict[str, Split], name: str) -> Task:
    task = opened.task(model, splits, name)
    if opened.unrepeatable:
        task.unrepeatable(opened.unrepeatable)
    return task


def _chosen(opened: Opened, selection: Any, model: nn.Module, cache: Path | None) -> choose.Chosen | None:
    """What the trained model chooses; None when the selection does not need it."""
    wanted = choose.asked(selection)
    if wanted is None:
        return None
    name, cfg, rest = wanted
    train = opened.splits["train"]
    return choose.chosen_by(opened.task(model, {"retain": train}, name), train, name, cfg, _among(opened, rest), cache)


def _among(opened: Opened, conditions: Mapping[str, Any]) -> np.ndarray:
    """[n] booleans: the training examples that the other conditions of a selection leave to choose from."""
    return build(Where, conditions).mask(opened.splits["train"])
