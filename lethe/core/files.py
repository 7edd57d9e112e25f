"""Files that appear whole or not at all: write beside, fsync, rename."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache as once
from pathlib import Path
from typing import Any

from lethe.core.trust import in_force, pickle_allowed
from lethe.errors import DiskFull, NotWritten, OutputExists, PickleRefused, StorageError

FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = {errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
DAY = 24 * 3600.0


def stems(file: str | Path, *others: str) -> tuple[str, ...]:
    """`others`, then the names of the files beside `file` that do not begin with an underscore: choices that follow from the
    file system. `lethe describe` reads them from a call in a type, without importing anything."""
    return (*others, *sorted(path.stem for path in Path(file).parent.glob("*.py") if not path.stem.startswith("_")))


@contextmanager
def space(path: Path) -> Iterator[None]:
    """Turn what a file system refuses into DiskFull (no space left) or StorageError, with a remedy."""
    try:
        yield
    except Exception as error:   # safetensors reports I/O errors as its own exception type
        told = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
        if number in FULL or "No space left" in str(error):
            raise DiskFull(f"no space left while writing {path}; the previous file is unchanged, and nothing "
                           "partial was left. Free some space and repeat the command: it resumes.") from error
        if number in REFUSED and not isinstance(error, StorageError):
            raise NotWritten(f"{path} cannot be written ({os.strerror(number or 0)}); the previous file is unchanged, and "
                               "nothing partial was left. Check the folder, its permissions and limits, and repeat the "
                               "command: it resumes.") from error
        raise


def temporary(path: Path) -> Path:
    """A path beside `path` for what is not whole yet. Its name says which process of which machine writes it."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def sweep(folder: Path, everything: bool = False) -> list[Path]:
    """Remove what processes that died have left half written in `folder` (with `everything`, also below it); what was removed.

    Of other machines nothing is known: theirs goes after a day.
    """
    if not folder.is_dir():
        return []
    swept = []
    for path in sorted(folder.rglob(".*.tmp") if everything else folder.glob(".*.tmp")):
        writer = re.search(r"\.([0-9a-f]{6})-(\d+)-[0-9a-f]{8}\.tmp$", path.name)
        here = writer is not None and writer[1] == _machine()
        if not (not alive(int(writer[2])) if writer is not None and here else _age(path) > DAY):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):   # what cannot be taken away now is so the next time
                path.unlink(missing_ok=True)
        swept.append(path)
    return swept


def alive(process: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:   # it is somebody else's
        return True
    return True


@contextmanager
def atomic(path: Path, private: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block succeeds, and is removed when it fails.

    private  only the user may read it, from its first byte on
    """
    beside = temporary(path)
    try:
        with space(path):
            make_folder(path.parent)
            if private:
                os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            yield beside
            sync(beside)
            os.replace(beside, path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block succeeds. OutputExists if `path` exists."""
    if path.exists():
        raise OutputExists(f"{path} exists; it is never overwritten, so nothing was written. Choose another folder or "
                           "move this one away.")
    beside = temporary(path)
    try:
        with space(path):
            make_folder(beside)
            yield beside
            for inside in beside.rglob("*"):
                sync(inside)
            sync(beside)
            os.rename(beside, path)
            sync(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, to last."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    with space(path):
        _make(path)
        for one in reversed(missing):
            sync(one.parent)


def _make(path: Path, mode: int = 0o777) -> None:
    """Make a folder; NotWritten where a file is in its way, or the system makes none there."""
    try:
        path.mkdir(mode, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        raise NotWritten(f"{path} cannot be made a folder ({os.strerror(error.errno or 0)}), so nothing was written to it. Name "
                         "another folder, or move away what is in its place.") from error


def move(source: Path, target: Path) -> None:
    """Rename within one folder, to last."""
    with space(target):
        os.rename(source, target)
        sync(target.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@once
def _machine() -> str:
    """Six digits that stand for this machine."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def _age(path: Path) -> float:
    """Seconds since it was written; 0 when it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def refuse_pickle(path: Path, instead: str, allowed: bool, permit: str = "set allow_pickle: true") -> None:
    """PickleRefused unless the user allowed it; a request alone cannot on the command line. permit: how that is done."""
    if not pickle_allowed(allowed):
        permit = permit if in_force().pickle else "pass --allow-pickle"
        raise PickleRefused(f"{path} is a pickle: loading it can run any code that its author put in, so it was not "
                            f"opened. {instead}, or {permit} if you trust its origin.")


def private_folder(path: Path) -> Path:
    """A folder that only the user may enter; made when it does not exist."""
    with space(path):
        _make(path, 0o700)
    return path


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_text(path: Path, text: str, private: bool = False) -> None:
    """Write a text file atomically. private: only the user may read it."""
    with atomic(path, private) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True) + "\n")


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, columns in the order of first appearance. Texts that a spreadsheet would run get an apostrophe."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    handle = io.StringIO()
    writer = csv.writer(handle, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_tame(row.get(key)) for key in columns])
    return handle.getvalue()


def _tame(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and len(cell) > 1 and cell[0] in "=+-@\t\r" else cell

