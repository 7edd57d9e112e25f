"""A method that runs another method: named in its options, as a run of its own within the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from lethe.core import catalogue
from lethe.core.config import build
from lethe.core.modules import copied
from lethe.core.operations import unlimited
from lethe.core.outcome import Outcome
from lethe.core.registry import Method
from lethe.core.seeds import derive
from lethe.core.split import Split, concat
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.train.loop import Loop, Modifiers
from lethe.train.modifiers.where import Draws, Selection
from lethe.train.modifiers.where.all import All

Named = str | Mapping[str, Any]   # a method, or {name: …, option: …}


@dataclass(frozen=True)
class Turn:
    """A part of the forget set, and the method that forgets it (None: it is left as it is)."""

    name: str
    record: Method | None
    options: Any
    forget: Split


@dataclass(frozen=True)
class Fixed:
    """where: what was selected once, on all of F."""

    names: tuple[str, ...]
    masks: Mapping[str, Tensor] = field(default_factory=dict)

    def select(self, model: nn.Module, task: Task, loop: Draws) -> Selection:
        return Selection({name: model.get_parameter(name) for name in self.names}, dict(self.masks))


def known(name: str, value: Named) -> tuple[Method, Any]:
    """The method that the option `name` names, and its checked options."""
    entry = {"name": value} if isinstance(value, str) else dict(value)
    if "name" not in entry:
        raise RequestError(f"method.{name} = {entry} names no method, so nothing was started. Write {{name: …, option: …}}.")
    called = entry.pop("name")
    record: Method = catalogue.load("methods", called)
    if record.mechanism == "search":
        raise RequestError(f"method.{name} = {called!r} would run methods itself; nothing was started. Name what it should run.")
    return record, build(record.config, entry)


def within(loop: Loop, task: Task, name: str, modifiers: Modifiers, watched: Task | None = None) -> Loop:
    """A run of its own within this one, a rehearsal within one: its draws depend on its name alone, and it resumes from its own
    folder.

    watched  where the watchdog's needs are granted, when `task` is the view of a method that has less
    """
    return type(loop)(task, replace(loop.settings, seed=derive(loop.seed, "rum", name)), modifiers, loop.watchdog,
                      loop.folder / name if loop.folder else None, loop.listener, name, loop.stop, watched)


def charge(loop: Loop, own: Loop | Outcome) -> None:
    """Add the work of a run within this one to its cost."""
    loop.cost.steps += own.cost.steps
    loop.cost.examples += own.cost.examples


def settled(task: Task, loop: Loop) -> Modifiers:
    """The modifiers with what may move decided; RequestError when that is no part of the model."""
    where = loop.modifiers.where
    if where == All():
        return loop.modifiers
    chosen = where.select(task.copy_of_original().to(loop.settings.device), unlimited(task), loop)
    if chosen.kind != "weights":
        raise RequestError(f"where = {type(where).__name__} makes an {chosen.kind}, from which the next part cannot start; "
                           "nothing was started. Use where=names, or all.")
    return replace(loop.modifiers, where=Fixed(tuple(chosen.params), chosen.masks))


def successive(turns: Sequence[Turn], task: Task, loop: Loop, modifiers: Modifiers) -> Outcome:
    """What is left when the parts are forgotten one after the other, each from the result of the one before; parts still to come
    are among the retained data."""
    model, fall = copied(task.original, trainable=False), None
    for i, turn in enumerate(turns):
        if turn.record is None or not len(turn.forget):
            continue
        later = [one.forget for one in turns[i + 1 :] if len(one.forget)]
        kept = {"retain": concat([task.retain, *later], "retain")} if task.has("retain") else {}
        step = task.replaced(model, forget=turn.forget, **kept)
        step.narrow()
        own = within(loop, step.granted(turn.record.needs, turn.record.uses), turn.name, modifiers, watched=step)
        made = turn.record.run(turn.options, own.task, own)
        if made.kind != "weights":
            raise RequestError(f"{turn.record.name} returns a model of kind {made.kind!r}, from which the next part cannot "
                               "start. Name a method that changes weights.")
        fall = made.fall or fall
        loop.notes += [f"{turn.name} ({turn.record.name}, {len(turn.forget)} examples): {note}" for note in made.notes]
        charge(loop, own)
        model = made.model
    outcome = loop.finish(model)
    outcome.fall = outcome.fall or fall
    return outcome
