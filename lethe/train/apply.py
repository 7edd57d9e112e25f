"""Run one method on one task: look it up, check it, grant it what it declared, and run its loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from lethe.core import catalogue
from lethe.core.catalogue import Entry
from lethe.core.config import build, digest, plain
from lethe.core.events import Listener, Warned, silent
from lethe.core.identity import NUMBERS, code_of
from lethe.core.modules import named_tensors
from lethe.core.operations import frozen
from lethe.core.outcome import Outcome
from lethe.core.registry import Method
from lethe.core.task import Task
from lethe.core.view import missing
from lethe.core.visiting import fetched
from lethe.errors import LetheError, NeedsUnmet, RequestError
from lethe.train.loop import Loop, Modifiers, Settings
from lethe.train.modifiers import resolved
from lethe.train.stop import Stop
from lethe.train.watchdog import NEEDS, Watchdog, watching

NOTHING: Final = "nothing changed: every weight is the original's, bit for bit, so nothing was forgotten"


def apply(
    task: Task,
    record: Method,
    cfg: Any,
    settings: Settings,
    modifiers: Mapping[str, Any] | None = None,
    watchdog: Watchdog | bool | None = None,
    folder: Path | None = None,
    progress: Listener = silent,
    stop: Stop | None = None,
) -> Outcome:
    """The outcome of a method on a task; NeedsUnmet before any work when it cannot run there."""
    require(task, record, cfg)
    return perform(task, record, cfg, settings, Modifiers(**resolved(modifiers)), modifiers or {}, watchdog, folder, progress,
                   stop)


def perform(
    task: Task,
    record: Method,
    cfg: Any,
    settings: Settings,
    seams: Modifiers,
    modifiers: Mapping[str, Any],
    watchdog: Watchdog | bool | None = None,
    folder: Path | None = None,
    progress: Listener = silent,
    stop: Stop | None = None,
    references: Sequence[nn.Module] = (),
) -> Outcome:
    """`apply` for a method that the task is known to serve (see `require`). modifiers: the seams as requested."""
    view = task.granted(record.needs, record.uses)
    watch = watching(watchdog, record, task)
    watched = task.granted(NEEDS) if watch else view
    made_of = "" if folder is None else identity_of(task, record.name, cfg, modifiers)
    loop = Loop(view, settings, seams, watch, folder, progress, record.name, stop, watched, made_of,
                references if settings.distribution == "none" else ())   # of several processes only the first has them
    if view.has("original"):
        fetched(frozen(view), settings.device)   # where the run's batches are
    outcome: Outcome = record.run(cfg, view, loop)
    outcome.method, outcome.task = record.name, task
    if outcome.export is None:
        outcome.model = task.deliverable(outcome.model)
    outcome.unchanged = outcome.kind == "weights" and same_weights(task.model, outcome.model)
    if outcome.unchanged:
        outcome.notes.append(NOTHING)
        progress(Warned(f"{record.name}: {NOTHING}"))
    if outcome.guarantee and (outcome.unchanged or outcome.fall):
        outcome.guarantee = {"void": "the watchdog returned another model than the one that the method proves something about"}
    outcome.unseen_used |= view.used("holdout") or watched.used("holdout")
    outcome.config = {"name": record.name, **plain(cfg), **outcome.trained,
                      **plain({"settings": settings, "modifiers": modifiers})}
    for candidate in outcome.search:
        if candidate["chosen"]:
            outcome.config["chosen"] = {"name": candidate["method"], **candidate["settings"], **candidate["modifiers"]}
    return outcome


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether parameters and buffers are the same, bit for bit."""
    a, b = named_tensors(one), named_tensors(other)
    return a.keys() == b.keys() and all(a[name].shape == b[name].shape and torch.equal(a[name].to(b[name].device), b[name])
                                        for name in a)


def identity_of(task: Task, method: str, cfg: Any, modifiers: Mapping[str, Any]) -> str:
    """The digest of what a run of a method is made of: model, data, code of the model, options; not of how it is carried out."""
    return digest([NUMBERS, method, cfg, modifiers, task.fingerprint, code_of(task.model)])


def fitting(task: Task) -> list[str]:
    """Names of the methods that can run on a task at their defaults: made for its family, and it has all that they need."""
    return sorted(name for name, entry in catalogue.entries("methods").items()
                  if entry.uses <= task.serves and not task.lacks([*entry.needs, *entry.instead])
                  and (entry.mechanism == "search" or not task.refuses(entry.uses)))


def all_methods(task: Task) -> list[str]:
    """What `all` stands for on a task: the methods that it can serve and that forget after training."""
    after = {entry.name for entry in catalogue.entries("methods").values() if _after_training(entry)}
    return [name for name in fitting(task) if name in after]


def alone(task: Task) -> list[str]:
    """Names of the methods that a task can serve as it is: those for which nothing was trained beforehand, and no searches."""
    known = catalogue.entries("methods")
    return [name for name in fitting(task) if known[name].module.split(".")[-2] not in ("exact", "search")
            and known[name].mechanism != "search"]


def everything(family: str) -> list[Entry]:
    """What `all` may stand for: the methods for a family that forget after training."""
    known = sorted(catalogue.entries("methods").items())
    return [entry for _, entry in known if entry.fits(family) and _after_training(entry)]


def _after_training(entry: Entry) -> bool:
    """Not those whose models are trained for it (`exact`), not a search, nor retraining, which every comparison shows."""
    return entry.name != "retrain" and entry.module.split(".")[-2] not in ("exact", "search")


def require(task: Task, record: Method, cfg: Any) -> None:
    """NeedsUnmet, with the methods that can run, when this one cannot; the faults of an exact model it would delete from."""
    if why := unmet(task, record, cfg):
        raise NeedsUnmet(f"{why} Methods that can run on this task: {', '.join(fitting(task)) or 'none'}.")
    if record.check is not None:
        record.check(cfg, task)


def accepts(task: Task, record: Method) -> bool:
    """Whether a task can serve a method at its defaults, by the method's own check too."""
    try:
        require(task, record, record.config())
    except LetheError:
        return False
    return True


def unmet(task: Task, record: Method, cfg: Any) -> str:
    """What a method needs and a task does not have, as a sentence; empty where it can run."""
    if not record.uses <= task.serves:
        lacking, owner = sorted(record.uses - task.provides), f"a {task.family} task"
        if not lacking:
            lacking, owner = sorted(record.uses - task.serves), task.unserved(record.uses)
        return f"{record.name} uses {', '.join(lacking)}, which has no meaning for {owner}, so it cannot run there."
    if record.mechanism != "search" and (why := task.refuses(record.uses)):   # a search asks each method that it runs
        return f"{record.name} {why}"
    for need in task.lacks(record.needs):
        return f"{record.name}: {missing(need)}"
    usual = type(cfg)()
    for need, option in record.instead.items():
        keys = [one.partition("=")[0] for one in option.split()]
        if not task.has(need) and any(getattr(cfg, key) == getattr(usual, key) for key in keys):
            return f"{record.name}: {missing(need)} Or set method.{option.replace(' ', ' method.')}."
    return ""


def method_of(method: Any, options: Mapping[str, Any] | None = None) -> tuple[Method, Any]:
    """The record and the checked config of a method given by name, by {name: …, option: …} or as a config object."""
    options = dict(options or {})
    if isinstance(method, Mapping):
        options = {**{k: v for k, v in method.items() if k != "name"}, **options}
        method = method["name"]
    if isinstance(method, str):
        record = catalogue.load("methods", method)
        return record, build(record.config, options)
    cls = type(method)
    found = [one for one in catalogue.entries("methods").values() if (one.config, one.module) == (cls.__name__, cls.__module__)]
    if not found:
        raise RequestError(f"{cls.__name__} of {cls.__module__} is the config of no method, so nothing can run. Pass the name "
                           "of a method with its options, or a config such as lethe.methods.SalUn(density=0.5).")
    return catalogue.load("methods", found[0].name), replace(method, **options) if options else method
