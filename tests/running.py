"""Run a method in one line, with the view and the loop that users get."""

from __future__ import annotations

from typing import Any

from lethe.core import catalogue
from lethe.core.outcome import Outcome
from lethe.core.task import Task
from lethe.engine.guard import Guard
from lethe.engine.loop import Loop, Settings


def run(name: str, task: Task, seed: int = 0, guard: Guard | None = None, **options: Any) -> Outcome:
    method = catalogue.load("methods", name)
    return method.run(method.config(**options), task.granted(method.needs), Loop(task, Settings(seed=seed), guard=guard))
