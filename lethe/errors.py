"""Every error that Lethe raises on purpose.

    LetheError
    ├── RequestError (ValueError)       the request cannot be carried out as written
    │   ├── UnknownKey                  an option that does not exist; proposes the nearest one
    │   ├── UnknownName                 a method, audit, modifier or source that does not exist
    │   ├── NameClash                   two files, or a file and a plug-in, of one name
    │   ├── OutOfRange                  a value outside its range or of the wrong type
    │   ├── CodeRefused                 code that was not allowed on the command line
    │   └── NeedsUnmet                  the method or audit needs what the task does not have
    ├── DataError (ValueError)          the data cannot be used
    │   ├── EmptySplit · SplitsOverlap · WrongColumn · LabelOutOfRange · NotFinite
    ├── ModelError (ValueError)         the model cannot be used
    │   └── OutputShape · PickleRefused
    ├── NotGranted (PermissionError)    a method read data that it did not declare
    ├── WorkerDied (RuntimeError)       a worker process ended before its work was done
    ├── OutOfMemory (MemoryError)       the device has no room for the smallest piece of the work
    ├── Diverged (ArithmeticError)      the run produced NaN, or utility fell below the floor
    └── StorageError (OSError)          files
        └── OutputExists (FileExistsError) · CheckpointCorrupted · DiskFull · NotWritten

A message states the cause with the offending value, the consequence and the remedy, in this order. The command line turns
any of these into one line on stderr and exit status 2; anything else is a defect and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LetheError(Exception):
    """Base of every error raised on purpose."""


class RequestError(LetheError, ValueError):
    """The request cannot be carried out as written."""


class UnknownKey(RequestError):
    """An option that does not exist."""


class UnknownName(RequestError):
    """A method, audit, modifier, source or preset that does not exist."""


class NameClash(RequestError):
    """Two files, or a file and a plug-in, of one name."""


class OutOfRange(RequestError):
    """A value outside its range or of the wrong type."""


class CodeRefused(RequestError):
    """Code that a request names and that was not allowed on the command line."""


class NeedsUnmet(RequestError):
    """The method or audit needs something that the task does not have."""


class DataError(LetheError, ValueError):
    """The data cannot be used."""


class EmptySplit(DataError):
    """A split without examples."""


class SplitsOverlap(DataError):
    """Splits that must be disjoint share examples."""


class WrongColumn(DataError):
    """A column that the data does not have."""


class LabelOutOfRange(DataError):
    """A label that the model has no output for."""


class NotFinite(DataError):
    """NaN or infinity in data or weights."""


class ModelError(LetheError, ValueError):
    """The model cannot be used."""


class OutputShape(ModelError):
    """The model's output does not have the shape that its family requires."""


class PickleRefused(ModelError):
    """A file that can run code when it is loaded."""


class NotGranted(LetheError, PermissionError):
    """A method read data that it did not declare."""


class OutOfMemory(LetheError, MemoryError):
    """The device has no room for the smallest piece of the work."""


class Diverged(LetheError, ArithmeticError):
    """The run produced NaN or infinity."""


class WorkerDied(LetheError, RuntimeError):
    """A worker process ended before its work was done."""


class StorageError(LetheError, OSError):
    """Files could not be read or written."""


class OutputExists(StorageError, FileExistsError):
    """The output folder exists; it is never overwritten."""


class CheckpointCorrupted(StorageError):
    """A checkpoint that cannot be read back."""


class DiskFull(StorageError):
    """No space left on the device."""


class NotWritten(StorageError):
    """The file system refused: an I/O error, a read-only disk, a limit, missing rights."""


def nearest(name: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' for the closest known name, or an empty string."""
    matches = difflib.get_close_matches(str(name)[:200], list(map(str, known)), n=1, cutoff=0.4)
    return f" (did you mean {matches[0]}?)" if matches else ""


def unknown_name(kind: str, name: str, known: Iterable[str], remedy: str = "") -> UnknownName:
    """The error for a name that is not in `known`."""
    known = sorted(known)
    tail = remedy or f"Known: {', '.join(known)}."
    shown = repr(name if len(str(name)) <= 200 else f"{str(name)[:200]}…")
    return UnknownName(f"{shown} is not a known {kind}{nearest(name, known)}. {tail}")
