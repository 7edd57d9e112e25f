"""Every durable operation below a folder, numbered; one of them, or all from one on, fails, or the process is killed there.

Durable: fsync, replace, rename, unlink, mkdir, rmdir of the system, and commits of the ledger. The numbers are those of one
process; a forked child goes on counting for itself.
"""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

Kind = Literal["count", "kill", "fail", "full", "readonly"]
CALLS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir")
FREES = ("unlink", "rmdir")   # a full disk lets these through


class Injection:
    """Installed in a process of its own, for the rest of its life.

    count     nothing fails; the operations are written to `log`        kill      SIGKILL before operation `at`
    fail      operation `at` raises an I/O error                        full      from `at` on, no space is left
    readonly  from `at` on, nothing can be changed
    """

    def __init__(self, folder: Path, kind: Kind, at: int = -1, log: Path | None = None) -> None:
        self.folder, self.kind, self.at, self.log, self.seen = folder.resolve(), kind, at, log, 0

    def install(self) -> None:
        for name in CALLS:
            setattr(os, name, self._around(name, getattr(os, name)))
        sa.event.listen(sa.Engine, "commit", self._commit)

    def _around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def around(first: Any, *rest: Any, **named: Any) -> Any:
            path = self._path(first, named.get("dir_fd"))
            if path is not None and path.is_relative_to(self.folder) and (number := self._due(name, path)):
                raise OSError(number, os.strerror(number), str(path))
            return call(first, *rest, **named)

        return around

    def _commit(self, connection: sa.Connection) -> None:
        if number := self._due("commit", self.folder):
            text = {errno.ENOSPC: "database or disk is full", errno.EROFS: "attempt to write a readonly database"}.get(
                number, "disk I/O error")
            raise sa.exc.OperationalError("COMMIT", {}, sqlite3.OperationalError(text))

    def _due(self, name: str, path: Path) -> int:
        """The error with which this operation ends; 0: it does what it should."""
        number, self.seen = self.seen, self.seen + 1
        if self.log is not None:
            with open(self.log, "a") as handle:
                handle.write(f"{name} {path}\n")
        if self.kind == "kill" and number == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "fail" and number == self.at:
            return errno.EIO
        if self.kind == "full" and number >= self.at and name not in FREES:
            return errno.ENOSPC
        return errno.EROFS if self.kind == "readonly" and number >= self.at else 0

    def _path(self, first: Any, folder: int | None) -> Path | None:
        try:
            if isinstance(first, int):
                return Path(os.readlink(f"/proc/self/fd/{first}"))
            path = Path(os.fsdecode(first))
            return (Path(os.readlink(f"/proc/self/fd/{folder}")) if folder is not None else Path.cwd()) / path
        except OSError:
            return None
