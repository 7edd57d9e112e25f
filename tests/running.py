"""Run a method in one line: by itself, to see what it computes, or as users run it, to see what they get."""

from __future__ import annotations

import json
from typing import Any

import lethe
from lethe.core import catalogue
from lethe.core.outcome import Outcome
from lethe.core.task import Task
from lethe.train.loop import Loop, Settings
from lethe.train.watchdog import Watchdog

claimed: list[str] = []   # the test at work, while it carries the marker `slow` (conftest)


def as_users(name: str, task: Task, seed: int = 0, **options: Any) -> Outcome:
    """By the public call, watched as usual. What is claimed of a method (marker `slow`) is claimed of this."""
    return lethe.forget(task, name, seed=seed, progress=False, **options)


def commanded(*words: str) -> dict[str, Any]:
    """What a command that must end well prints as JSON."""
    from typer.testing import CliRunner

    from lethe.cli.main import app

    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run(name: str, task: Task, seed: int = 0, watchdog: Watchdog | None = None, **options: Any) -> Outcome:
    """Through the view and the loop that users get, unwatched unless a watchdog is given: for what a method computes."""
    assert not claimed, "a claim about a method is tested as users run it: running.as_users or lethe.forget"
    method = catalogue.load("methods", name)
    view = task.granted(method.needs)
    return method.run(method.config(**options), view, Loop(view, Settings(seed=seed), watchdog=watchdog, watched=task))
