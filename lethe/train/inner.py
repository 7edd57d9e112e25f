"""A method that runs another method: named in its options, as a run of its own within the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lethe.core import catalogue
from lethe.core.config import build
from lethe.core.outcome import Outcome
from lethe.core.registry import Method
from lethe.core.seeds import derive
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.train.loop import Loop, Modifiers

Named = str | Mapping[str, Any]   # a method, or {name: …, option: …}


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
