"""Open a job: read model and data, train the original if it came without weights, make one task per scenario."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lethe.core import training
from lethe.core.config import build, digest
from lethe.core.identity import NUMBERS, Identity, code_of, identity
from lethe.core.modules import named_tensors
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.data.context import Context
from lethe.data.select import Where, divide
from lethe.errors import CheckpointCorrupted, NeedsUnmet, RequestError
from lethe.ledger.discretion import discreet
from lethe.models.opened import Opened
from lethe.pools import choose
from lethe.pools.choose import Chosen, Wish
from lethe.pools.member import sound
from lethe.report.answer import lopsided
from lethe.train.checkpoint import save_tensors
from lethe.train.loop import Loop, Settings
from lethe.work.job import Case, Job, Run, resolve
from lethe.work.lock import locked
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
    """Let the family read its sections of the request."""
    source = job.opening
    assert job.cache is not None
    opened = source.read(source.sections, Context(options.data_root, job.cache, options.allow_pickle, options.say))
    if opened.model is None and opened.recipe is None:
        raise NeedsUnmet("the request has neither trained weights (model.weights, model.folder) nor a recipe to train them, so "
                         "there is nothing to forget from. Add one of them.")
    return opened


def identified(job: Job, opened: Opened, options: Options) -> tuple[Job, Identity]:
    """The job named by what its files contain, and the parts of that name."""
    start = opened.model or (opened.fresh(job.settings.seed) if opened.build else None)
    found = identity(job.config, opened.splits, start, options.data_root)
    return replace(job, hash=found.digest), found


@dataclass(frozen=True)
class Known:
    """What is known of the scenarios before anything is trained: splits, runs, and the tasks that need no training."""

    splits: Mapping[str, dict[str, Split]]
    runs: Mapping[str, tuple[Run, ...]]
    tasks: Mapping[str, Task]


def scenes_of(job: Job, opened: Opened, options: Options) -> Known:
    """Every scenario, checked as far as it can be without training; raises what is wrong with data, model and methods."""
    source = job.opening
    drafts = {case.name: draft(opened, case) for case in source.cases}
    for splits in drafts.values():
        if doubt := lopsided({key: len(split) for key, split in splits.items()}):
            options.warn(doubt)
    if opened.model is None:
        start = opened.fresh(job.settings.seed)
        return Known(drafts, {name: checked(job, opened, start, splits) for name, splits in drafts.items()}, {})
    tasks = {case.name: _named(job, opened, opened.model, drafts[case.name], case) for case in source.cases if case.wish is None}
    return Known(drafts, {name: job.runs_on(task) for name, task in tasks.items()}, tasks)


def prepare(job: Job, options: Options, train: bool = True, opened: Opened | None = None, known: Known | None = None) -> Prepared:
    """Open the job, check every scenario, train the original if it came without weights, and make the tasks.

    train   False: a fresh model stands in for an original that is not trained yet; RequestError where it has to choose examples
    opened, known   what was read and checked before, if it was
    """
    opened = opened or read(job, options)
    known = known or scenes_of(job, opened, options)
    model = opened.model or _original(job, opened, opened.fresh(job.settings.seed), options, train)
    if opened.model is None and opened.recipe is not None and opened.recipe.code:
        opened.facts["trained_here"] = "by recipe.code"
    scenes = {}
    for case in job.opening.cases:
        splits, facts, task = known.splits[case.name], dict(opened.facts), known.tasks.get(case.name)
        if case.wish is not None:
            chosen = _chosen(opened, case.wish, model, job.cache)
            splits, facts["chosen"] = parts(opened, chosen.mask), chosen.facts
        task = task or _named(job, opened, model, splits, case)
        task.facts.update(facts)
        runs = known.runs.get(case.name)
        scenes[case.name] = Scene(case.name, task, job.runs_on(task) if runs is None else runs,
                                  describe(case.selection, len(splits["forget"]), options.show_ids))
    return Prepared(opened, scenes)


def tasks_of(request: Request, options: Options) -> dict[str, Task]:
    """The tasks of a request, by the name of their scenario; its methods are left out."""
    return prepare(replace(resolve(request, options), runs=()), options).tasks


def checked(job: Job, opened: Opened, model: nn.Module, splits: dict[str, Split]) -> tuple[Run, ...]:
    """The runs that a task on these splits can serve, after every check of data, model and methods; raises what is wrong.

    model   the one that came or, where it is yet to be trained, a fresh one
    """
    return job.runs_on(task_of(opened, model, splits, "checks"))


def original_of(job: Job, opened: Opened, options: Options) -> nn.Module:
    """The original: the provided model, or one trained by the recipe on everything (from the cache if it is there)."""
    assert job.cache is not None
    return opened.model or trained(opened, job.settings, job.cache, options)


def original_files(job: Job, opened: Opened) -> list[Path]:
    """The file of the cache in which the original is kept, where it is trained here."""
    return [] if opened.model is not None or opened.recipe is None else [_training(opened, job.settings, job.cache)[1]]


def trained(opened: Opened, settings: Settings, cache: Path, options: Options) -> nn.Module:
    """The original model, trained by the recipe on everything, from the cache if it is there."""
    assert opened.recipe is not None
    task, path = _training(opened, settings, cache)
    alone = settings.distribution == "none"   # the processes of one run train together, and wait for each other elsewhere
    lock = path.with_suffix(".lock")
    with locked(lock, stop=options.stop) if alone and (lock.exists() or not path.exists()) else nullcontext():
        return _trained(opened, task, settings, path, options)


def _trained(opened: Opened, task: Task, settings: Settings, path: Path, options: Options) -> nn.Module:
    """The original from its file or, where that is missing or damaged, trained, and kept there."""
    assert opened.recipe is not None
    folder = path.with_suffix("")
    loop = Loop(task, settings, folder=folder, listener=options.listener, title="original", stop=options.stop, identity=path.stem)
    model = loop.start(task.build(settings.seed))
    if task.keeps() and (kept := sound(path)) is not None:
        return loop.restored(model, kept[0])
    if task.keeps() and path.exists():
        options.warn(f"{path} is damaged; the original is trained again")
    try:
        task.train(model, opened.splits["train"], opened.recipe, loop)
    except CheckpointCorrupted as error:
        if settings.distribution != "none":
            raise
        options.warn(f"{error} Starting afresh.")
        shutil.rmtree(folder)
        return _trained(opened, task, settings, path, options)
    outcome = loop.finish(model)
    if loop.distribution.first and task.keeps():
        save_tensors(path, named_tensors(outcome.model), {"seconds": outcome.cost.seconds})
        shutil.rmtree(folder, ignore_errors=True)
    return outcome.model


def _training(opened: Opened, settings: Settings, cache: Path | None) -> tuple[Task, Path]:
    """The task on which the original is trained, and the file of the cache that holds it afterwards."""
    assert cache is not None
    start = opened.fresh(settings.seed)
    others = {k: v for k, v in opened.splits.items() if k in ("holdout", "test")}
    task = opened.task(start, {"retain": opened.splits["train"], **others}, "training")
    key = digest([task.fingerprint, code_of(start), training.identity(opened.recipe), settings.seed, settings.precision, NUMBERS,
                  str(torch.__version__), torch.device(settings.device).type])
    return task, cache / "original" / f"{key}.safetensors"


def _original(job: Job, opened: Opened, start: nn.Module, options: Options, train: bool) -> nn.Module:
    """The trained original; `start` in its place where it is not trained and need not be."""
    if train or _training(opened, job.settings, job.cache)[1].exists():
        options.say("training the original model")
        return original_of(job, opened, options)
    if choosing := [case.name or "the request" for case in job.opening.cases if case.wish is not None]:
        raise RequestError(f"the original chooses what {', '.join(choosing)} forgets, and it is not trained yet, so its models "
                           "cannot be listed. lethe pool without --list trains it first.")
    return start


def describe(selection: Any, count: int, show_ids: bool = False) -> str:
    """The request in words; values that name records are counted unless they are to be shown."""
    if isinstance(selection, Mapping):
        selection = selection if show_ids else discreet({"forget": selection})["forget"]
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


def draft(opened: Opened, case: Case) -> dict[str, Split]:
    """The splits of a scenario before a model is trained: of one that needs the model, as many examples as it will choose."""
    if case.wish is None:
        return parts(opened, case.selection)
    allowed = _among(opened, case.wish)
    choose.require_room(case.wish.count, len(allowed), int(allowed.sum()))
    return parts(opened, np.flatnonzero(allowed)[: case.wish.count])


def _named(job: Job, opened: Opened, model: nn.Module, splits: dict[str, Split], case: Case) -> Task:
    return task_of(opened, model, splits, case.name or job.title or job.opening.family)


def task_of(opened: Opened, model: nn.Module, splits: dict[str, Split], name: str) -> Task:
    """The task of these splits on this model."""
    task = opened.task(model, splits, name)
    if opened.unrepeatable:
        task.unrepeatable(opened.unrepeatable)
    return task


def _chosen(opened: Opened, wish: Wish, model: nn.Module, cache: Path | None) -> Chosen:
    """What the trained model chooses."""
    train = opened.splits["train"]
    task = opened.task(model, {"retain": train}, wish.name)
    return choose.chosen_by(task, train, wish.name, wish.cfg, _among(opened, wish), cache)


def _among(opened: Opened, wish: Wish) -> np.ndarray:
    """[n] booleans: the training examples that the other conditions of a selection leave to choose from."""
    return build(Where, wish.among).mask(opened.splits["train"])
