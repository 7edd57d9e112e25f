"""Failures of one method or audit of many: recorded in its row, with the traceback in a file, while the others continue."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from lethe.core.files import write_text
from lethe.core.names import folder_name
from lethe.errors import DiskFull, LetheError, NotWritten


@dataclass(frozen=True)
class Failure:
    """text: for the table; defect: not an error on purpose, so the code is at fault; log: file with the traceback, '' if none."""

    text: str
    defect: bool = False
    log: str = ""


def failure(error: Exception, title: str, folder: Path | None) -> Failure:
    """The record of an error; its traceback is written below `folder`. A disk that is full or cannot be written ends the whole
    run, which resumes when it is repeated: raised."""
    if isinstance(error, (DiskFull, NotWritten)):
        raise error
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, LetheError):
        return Failure(text)
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" (in {Path(last[0].filename).name}, line {last[0].lineno})" if last else ""
    log = ""
    if folder is not None:
        path = folder / f"{folder_name(title.strip())}.txt"
        write_text(path, "".join(traceback.format_exception(error)), private=True)
        log = f"{path.parent.name}/{path.name}"
    return Failure(f"{text}{where}{f'; traceback in {log}' if log else ''}", True, log)
