"""One process at a time: a lock that names its holder and ends with it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lethe.core.files import alive, make_folder, space
from lethe.train.stop import Stop

PATIENCE = 0.1   # seconds between two looks at a lock that another process holds


@contextmanager
def locked(path: Path, waiting: Callable[[str], None] = lambda holder: None, stop: Stop | None = None) -> Iterator[None]:
    """Let one process at a time through; the file is there while the block runs.

    The system ends the lock with its process. Workers that a killed process has left behind would hold it on, so one whose
    process is dead counts as free.

    waiting  told once who holds it, when it is not free        stop  ends the waiting
    """
    told = False
    with space(path):
        make_folder(path.parent)
        while (handle := _taken(path)) is None:
            if not told:
                waiting(_holder(path))
                told = True
            if stop is not None:
                stop.check()
            time.sleep(PATIENCE)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)   # before it is free: whoever waits for this file looks again
        os.close(handle)


def tidied(path: Path) -> None:
    """Take away a lock file that a process has left when it was killed; one that is held stays, and so does one that cannot be
    taken away."""
    with suppress(OSError):
        if path.exists() and (handle := _taken(path)) is not None:
            path.unlink(missing_ok=True)
            os.close(handle)


def held(path: Path) -> str:
    """Who holds a lock; '' where nobody does."""
    if not path.exists():
        return ""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return "" if _dead(path) else _holder(path)
    finally:
        os.close(handle)
    return ""


def _taken(path: Path) -> int | None:
    """The open lock file, locked and signed; None while another process has it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_ino == path.stat().st_ino:
            os.truncate(handle, 0)
            os.pwrite(handle, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
            return handle
    except FileNotFoundError:
        pass   # its last holder has just removed it
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            os.close(handle)
            raise
        if _dead(path) and os.fstat(handle).st_ino == path.stat().st_ino:
            path.unlink(missing_ok=True)
    os.close(handle)
    return None


def _read(path: Path) -> tuple[str, int]:
    """(host, process) in the lock file; ("", 0) before it is signed."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return str(found["host"]), int(found["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0


def _holder(path: Path) -> str:
    host, process = _read(path)
    return f"process {process} on {host}" if process else "another process"


def _dead(path: Path) -> bool:
    host, process = _read(path)
    return host == socket.gethostname() and process > 0 and not alive(process)
