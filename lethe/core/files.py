"""Files that appear whole or not at all: write beside, fsync, rename."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lethe.core.trust import in_force, pickle_allowed
from lethe.errors import DiskFull, OutputExists, PickleRefused


def stems(file: str | Path, *others: str) -> tuple[str, ...]:
    """`others`, then the names of the files beside `file` that do not begin with an underscore: choices that follow from the
    file system. `lethe describe` reads them from a call in a type, without importing anything."""
    return (*others, *sorted(path.stem for path in Path(file).parent.glob("*.py") if not path.stem.startswith("_")))


@contextmanager
def space(path: Path) -> Iterator[None]:
    """Turn 'no space left' into DiskFull with a remedy."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error):   # safetensors reports I/O errors as its own exception type
            raise DiskFull(f"no space left while writing {path}; the previous file is unchanged, and nothing "
                           "partial was left. Free some space and repeat the command: it resumes.") from error
        raise


@contextmanager
def atomic(path: Path, private: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block succeeds, and is removed when it fails.

    private  only the user may read it, from its first byte on
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with space(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if private:
                os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            yield beside
            with open(beside, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(beside, path)
            sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block succeeds. OutputExists if `path` exists."""
    if path.exists():
        raise OutputExists(f"{path} exists; it is never overwritten, so nothing was written. Choose another folder or "
                           "move this one away.")
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with space(path):
            beside.mkdir(parents=True)
            yield beside
            for file in beside.rglob("*"):
                if file.is_file():
                    with open(file, "rb") as handle:
                        os.fsync(handle.fileno())
            os.rename(beside, path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def refuse_pickle(path: Path, instead: str, allowed: bool, permit: str = "set allow_pickle: true") -> None:
    """PickleRefused unless the user allowed it; a request alone cannot on the command line. permit: how that is done."""
    if not pickle_allowed(allowed):
        permit = permit if in_force().pickle else "pass --allow-pickle"
        raise PickleRefused(f"{path} is a pickle: loading it can run any code that its author put in, so it was not "
                            f"opened. {instead}, or {permit} if you trust its origin.")


def private_folder(path: Path) -> Path:
    """A folder that only the user may enter; made when it does not exist."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


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


def sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
