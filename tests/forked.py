"""The command line in a forked process: as separate as a new one, without importing everything again (two seconds a time)."""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lethe.cli.main import main
from lethe.core import catalogue


@dataclass(frozen=True)
class Ended:
    """How a command ended. status: below zero, the signal that killed it."""

    status: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        return self.stdout + self.stderr


@dataclass(frozen=True)
class Started:
    """A command at work, and the files of what it says."""

    process: int
    stdout: Path
    stderr: Path

    def ended(self) -> Ended:
        """Wait for its end."""
        _, status = os.waitpid(self.process, 0)
        out, err = (path.read_text() if path.exists() else "" for path in (self.stdout, self.stderr))
        for path in (self.stdout, self.stderr):
            path.unlink(missing_ok=True)
        return Ended(os.waitstatus_to_exitcode(status), out, err)


@cache
def imported() -> None:
    """What a command imports while it works, once for all forks: that is most of its time."""
    for name in ("matplotlib.figure", "matplotlib.backends.backend_svg", "lethe.report.page", "lethe.work.verify", "scipy.stats",
                 "jinja2.compiler", "rich.table", "typer._adapters", "lethe.work.execute", "lethe.work.files", "torch._dynamo",
                 "rich.console", "sqlalchemy.dialects.sqlite"):
        importlib.import_module(name)
    for kind in catalogue.KINDS:   # a command reads what every file declares, and imports each audit
        for one in catalogue.entries(kind).values():
            if kind in ("methods", "audits", "modifiers"):
                importlib.import_module(one.module)


def started(folder: Path, *words: object, prepare: Callable[[], None] = lambda: None) -> Started:
    """`lethe words …` in this folder, in a forked process in which `prepare` is called first."""
    out, err = (folder.with_name(f".{folder.name}-{time.monotonic_ns()}.{name}") for name in ("out", "err"))
    imported()
    process = os.fork()
    if process:
        return Started(process, out, err)
    status = 70
    try:
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.chdir(folder)
        sys.argv = ["lethe", *map(str, words)]
        prepare()
        main()
        status = 0
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def lethe(folder: Path, *words: object, status: int | None = None) -> Ended:
    """`lethe words …` in this folder. status: AssertionError where it ends with another."""
    done = started(folder, *words).ended()
    assert status is None or done.status == status, done.said[-3000:]
    return done
