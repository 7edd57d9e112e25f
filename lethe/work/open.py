"""Open a job: read model and data, train the original if it came without weights, make one task per scenario."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lethe.core import training
from lethe.core.concepts import selects
from lethe.core.config import build, digest
from lethe.core.discretion import discreet
from lethe.core.identity import NUMBERS, Identity, code_of, identity
from lethe.core.modules import named_tensors
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.data.context import Context
from lethe.data.load import Data, learns
from lethe.data.select import Where, divide
from lethe.errors import CheckpointCorrupted, NeedsUnmet, RequestError
from lethe.models.opened import Opened
from lethe.pools import choose
from lethe.pools.choose import Chosen, Wish
from lethe.pools.member import sound
from lethe.train.checkpoint import save_tensors
from lethe.train.loop import Loop
from lethe.train.modifiers.where.lora import of_recipe
from lethe.work.job import Case, Job, Run, Source, resolve
from lethe.work.ladder import Ladder, ladder, require_judged
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
class Plan:
    """A job whose data and model were read, before anything is trained. What its door, its dry run and its work take of it
    is made once.

    start      the model that came or, where it is yet to be trained, a fresh one
    learned    whether inputs are standardised or encoded by statistics of the whole training data
    thorough   whether the door takes the seconds that an estimate of time needs, and says what is well, too
    """

    job: Job
    opened: Opened
    start: nn.Module
    options: Options
    learned: bool
    thorough: bool = False

    @property
    def original(self) -> nn.Module | None:
        """The model that came with weights; None: the recipe trains it first."""
        return self.opened.model

    @property
    def train(self) -> Split | None:
        """What the original was trained on, where the data say it: train, or retain."""
        return self.opened.splits.get("train", self.opened.splits.get("retain"))

    @cached_property
    def openings(self) -> dict[str, Opened]:
        """What was opened, for each scenario: told of the concepts that it forgets."""
        return {case.name: self.opened.of(case.selection) for case in self.job.opening.cases}

    @cached_property
    def allowed(self) -> dict[str, np.ndarray]:
        """[n] booleans for each scenario in which the model chooses: the training examples that other conditions leave it."""
        return {case.name: build(Where, case.wish.among).mask(self.opened.splits["train"])
                for case in self.job.opening.cases if case.wish is not None}

    @cached_property
    def splits(self) -> dict[str, dict[str, Split]]:
        """The splits of each scenario; where the model chooses, as many examples as it will."""
        return {case.name: _draft(self, case) for case in self.job.opening.cases}

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The task of each scenario on the start model."""
        return {case.name: _task(self, case, self.start, self.splits[case.name]) for case in self.job.opening.cases}

    @cached_property
    def runs(self) -> dict[str, tuple[Run, ...]]:
        """The runs that each task can serve, after every check that needs no training; raises what is wrong."""
        return {name: self.job.runs_on(task) for name, task in self.tasks.items()}

    @cached_property
    def ladders(self) -> dict[str, Ladder]:
        """The ladder of each scenario, rehearsed on the start model, where one is wanted; raises what speaks against it."""
        return {name: ladder(self.job, task) for name, task in self.tasks.items()} if self.job.climb else {}

    @cached_property
    def training(self) -> tuple[Task, Path]:
        """The task on which the original is trained, and the file of the cache that holds it afterwards."""
        assert self.job.cache is not None
        settings, train = self.job.settings, self.opened.splits["train"]
        others = {k: v for k, v in self.opened.splits.items() if k in ("holdout", "test")}
        task = self.opened.task(self.start, {"retain": train, **others}, "training")
        key = digest([task.fingerprint, code_of(self.start), training.identity(self.opened.recipe), settings.seed,
                      settings.precision, NUMBERS, str(torch.__version__), torch.device(settings.device).type])
        return task, self.job.cache / "original" / f"{key}.safetensors"


def read(job: Job, options: Options) -> Plan:
    """Let the family read its sections of the request."""
    if job.climb is not None:
        require_judged(job)
    source = job.opening
    assert job.cache is not None
    opened = source.read(source.sections, Context(options.data_root, job.cache, options.allow_pickle, options.say))
    if opened.model is None and opened.recipe is None:
        raise NeedsUnmet("the request has neither trained weights (model.weights, model.folder) nor a recipe to train them, so "
                         "there is nothing to forget from. Add one of them.")
    start = opened.model or opened.fresh(job.settings.seed)
    return Plan(job.of(start), opened, start, options, learned(source))


def learned(source: Source) -> bool:
    """Whether the data of a source, which can be read, are standardised or encoded by statistics of the whole training data."""
    return source.data is Data and learns(source.sections.data)


def identified(plan: Plan) -> tuple[Plan, Identity]:
    """The plan with its job named by what its files contain, and the parts of that name."""
    found = identity(plan.job.config, plan.opened.splits, plan.start, plan.options.data_root)
    return replace(plan, job=replace(plan.job, hash=found.digest)), found


def prepare(plan: Plan, train: bool = True) -> dict[str, Scene]:
    """Every scenario by name, after every check: the original is trained if it came without weights, and chooses where it must.

    train   False: a fresh model stands in for an original that is not trained yet; RequestError where it has to choose examples
    """
    opened, runs = plan.opened, plan.runs
    model = opened.model or _original(plan, train)
    here = {"trained_here": "by recipe.code"} if opened.model is None and opened.recipe is not None and opened.recipe.code else {}
    scenes = {}
    for case in plan.job.opening.cases:
        splits, facts = plan.splits[case.name], dict(plan.openings[case.name].facts)
        if case.wish is not None:
            chosen = _chosen(plan, case, case.wish, model)
            splits, facts["chosen"] = {**choose.divided(opened.splits["train"], chosen.mask), **_others(opened)}, chosen.facts
        same = model is plan.start and case.wish is None
        task = plan.tasks[case.name] if same else _task(plan, case, model, splits)
        task.facts.update(facts | here)
        scenes[case.name] = Scene(case.name, task, runs[case.name],
                                  describe(case.selection, task, len(splits["forget"]), plan.options.show_ids))
    return scenes


def tasks_of(request: Request, options: Options) -> dict[str, Task]:
    """The tasks of a request, by the name of their scenario; its methods are left out."""
    scenes = prepare(read(replace(resolve(request, options), runs=()), options))
    return {name: scene.task for name, scene in scenes.items()}


def original_of(plan: Plan) -> nn.Module:
    """The original: the provided model, or one trained by the recipe on everything (from the cache if it is there)."""
    return plan.opened.model or trained(plan)


def original_files(plan: Plan) -> list[Path]:
    """The file of the cache in which the original is kept, where it is trained here."""
    return [plan.training[1]] if plan.opened.model is None else []


def trained(plan: Plan) -> nn.Module:
    """The original model, trained by the recipe on everything, from the cache if it is there."""
    path = plan.training[1]
    alone = plan.job.settings.distribution == "none"   # processes of one run train together, and wait for each other elsewhere
    lock = path.with_suffix(".lock")
    with locked(lock, stop=plan.options.stop) if alone and (lock.exists() or not path.exists()) else nullcontext():
        return _trained(plan)


def _trained(plan: Plan) -> nn.Module:
    """The original from its file or, where that is missing or damaged, trained, and kept there."""
    opened, settings, options, (task, path) = plan.opened, plan.job.settings, plan.options, plan.training
    assert opened.recipe is not None
    folder = path.with_suffix("")
    loop = Loop(task, settings, folder=folder, listener=options.listener, title="original", stop=options.stop, identity=path.stem)
    if task.keeps() and (kept := sound(path)) is not None:
        return loop.restored(loop.start(task.build(settings.seed)), kept[0])
    model = loop.start(task.build(settings.seed), of_recipe(task))
    if task.keeps() and path.exists():
        options.warn(f"{path} is damaged; the original is trained again")
    try:
        task.train(model, opened.splits["train"], opened.recipe, loop)
    except CheckpointCorrupted as error:
        if settings.distribution != "none":
            raise
        options.warn(f"{error} Starting afresh.")
        shutil.rmtree(folder)
        return _trained(plan)
    outcome = loop.finish(model)
    if loop.distribution.first and task.keeps():
        save_tensors(path, named_tensors(outcome.model), {"seconds": outcome.cost.seconds})
        shutil.rmtree(folder, ignore_errors=True)
    return outcome.model


def _original(plan: Plan, train: bool) -> nn.Module:
    """The trained original; the start model in its place where it is not trained and need not be."""
    if train or plan.training[1].exists():
        plan.options.say("training the original model")
        return trained(plan)
    if choosing := [case.name or "the request" for case in plan.job.opening.cases if case.wish is not None]:
        raise RequestError(f"the original chooses what {', '.join(choosing)} forgets, and it is not trained yet, so its models "
                           "cannot be listed. lethe pool without --list trains it first.")
    return plan.start


def describe(selection: Any, task: Task, count: int, show_ids: bool = False) -> str:
    """The request in words: its selection or, without one, the task's concepts; values that name records are counted unless they
    are to be shown."""
    if selection is None and (concepts := getattr(task, "concepts", ())):
        selection = {"concept": ", ".join(one.concept for one in concepts)}
    if isinstance(selection, Mapping):
        selection = selection if show_ids else discreet({"forget": selection})["forget"]
        inner = ", ".join(f"{key} {value}" for key, value in selection.items())
        return f"forget {inner} ({count} examples)"
    return f"forget {count} examples"


def parts(opened: Opened, selection: Any) -> dict[str, Split]:
    """The splits of a task: the training data divided by the selection, or as the data are already divided."""
    others = _others(opened)
    if selection is None or selects(selection):   # the family has divided them
        if "forget" not in opened.splits:
            raise RequestError("the request does not name what to forget, so nothing was started. Add forget: {label: 3}, "
                               "{ids: […]}, {fraction: 0.1}, {query: …}, {entity: …}, {text: …}, {concept: …}; or data.forget.")
        return {**{key: opened.splits[key] for key in ("forget", "retain") if key in opened.splits}, **others}
    if "train" not in opened.splits:
        raise RequestError(f"forget: {str(selection)[:60]} chooses among training data, and the request has none; nothing was "
                           "started. Provide them in data, or name a concept: forget: {concept: …}.")
    forgotten, retained = divide(opened.splits["train"], selection)
    return {"forget": forgotten, "retain": retained, **others}


def _others(opened: Opened) -> dict[str, Split]:
    """What no selection divides: holdout, test, and what a family adds."""
    return {key: split for key, split in opened.splits.items() if key not in ("train", "forget", "retain")}


def _draft(plan: Plan, case: Case) -> dict[str, Split]:
    if case.selection is not None and not selects(case.selection) and {"train", "forget"} <= plan.opened.splits.keys():
        raise RequestError(f"forget: {str(case.selection)[:60]} and the data (data.forget) both say what goes, so it is not "
                           "clear which is meant; nothing was started. Leave one of them out.")
    if case.wish is None:
        return parts(plan.openings[case.name], case.selection)
    allowed = plan.allowed[case.name]
    choose.require_room(case.wish.count, len(allowed), int(allowed.sum()))
    first = allowed & (np.cumsum(allowed) <= case.wish.count)
    return {**choose.divided(plan.opened.splits["train"], first), **_others(plan.opened)}


def _task(plan: Plan, case: Case, model: nn.Module, splits: dict[str, Split]) -> Task:
    task = plan.openings[case.name].task(model, splits, case.name or plan.job.title or plan.job.opening.family)
    return task.unrepeatable(plan.opened.unrepeatable) if plan.opened.unrepeatable else task


def _chosen(plan: Plan, case: Case, wish: Wish, model: nn.Module) -> Chosen:
    """What the trained model chooses."""
    train = plan.opened.splits["train"]
    task = plan.opened.task(model, {"retain": train}, wish.name)
    return choose.chosen_by(task, train, wish.name, wish.cfg, plan.allowed[case.name], plan.job.cache)
