"""Run a method in one line, with the view and the loop that users get."""

from __future__ import annotations

from typing import Any

from lethe.core import catalogue
from lethe.core.outcome import Outcome
from lethe.core.task import Task
from lethe.train.loop import Loop, Settings
from lethe.train.watchdog import Watchdog


def run(name: str, task: Task, seed: int = 0, watchdog: Watchdog | None = None, **options: Any) -> Outcome:
    method = catalogue.load("methods", name)
    view = task.granted(method.needs)
    return method.run(method.config(**options), view, Loop(view, Settings(seed=seed), watchdog=watchdog, watched=task))
