"""Files that a user names: opened only when they are files, read only within bounds, and wrong ones are errors with a place.

Everything that reads a user's file goes through `regular` (or `text_of`), and every library that parses one runs inside
`understood`: what the library raises becomes one error that names the file.
"""

from __future__ import annotations

import gzip
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lethe.errors import DataError, LetheError, RequestError, nearest


def regular(path: Path, option: str, fault: type[LetheError] = DataError, folder: bool = False) -> Path:
    """The path, if it is a file (or, with `folder`, a folder) that exists; else `fault`, which proposes the nearest name.

    A pipe, a socket or a device is refused: reading it could wait for ever.
    """
    path = expanded(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise fault(f"{shown(path)} does not exist{nearest(path.name, beside(path))}, so there is nothing to read. Correct "
                        f"{option}.") from None
        raise fault(f"{shown(path)} cannot be looked at ({reason(error)}), so nothing was read. Correct {option}.") from None
    if stat.S_ISDIR(mode) and not folder:
        raise fault(f"{shown(path)} is a folder and a file is wanted, so nothing was read. Correct {option}.")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise fault(f"{shown(path)} is a pipe or a device, whose contents cannot be read twice, so nothing was read. Copy it "
                    f"into a file, and correct {option}.")
    return path


def askable(path: Path) -> None:
    """RequestError for a path of which the system does not say whether it exists: its name is too long, a folder is closed."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise RequestError(f"{shown(path)} cannot be looked at ({reason(error)}), so nothing was started. Correct the "
                           "path, or its rights.") from None


def text_of(path: Path, option: str, most: int, fault: type[LetheError] = DataError) -> str:
    """The text of a UTF-8 file of at most `most` bytes. option: where the user named it, e.g. 'data.path'."""
    path = regular(path, option, fault)
    try:
        size = path.stat().st_size
        if size > most:
            raise fault(f"{shown(path)} has {size:,} bytes; at most {most:,} are read, so nothing was started. Name a smaller "
                        "file.")
        return decoded(path.read_bytes(), path, fault)
    except OSError as error:
        raise fault(f"{shown(path)} cannot be read ({reason(error)}), so nothing was started. Correct its rights, or copy "
                    "it.") from None


def decoded(data: bytes, path: Path, fault: type[LetheError] = DataError) -> str:
    """Bytes as UTF-8 text, without a byte-order mark; `fault` names the line that is not."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        utf16 = " It looks like UTF-16." if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise fault(f"{shown(path)} is not UTF-8 text (line {line}, byte {data[error.start]:#04x}), so it was not read.{utf16} "
                    "Save it as UTF-8.") from None


def lines_of(path: Path, option: str, fault: type[LetheError] = DataError) -> str:
    """The text of a UTF-8 file of any size, also .gz, for readers of tables and records; line ends as they stand."""
    path = regular(path, option, fault)
    with understood(path, "text" if path.suffix != ".gz" else "gzipped text", "Copy it again.", fault):
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as handle:
            data = handle.read()
        return decoded(data, path, fault)


@contextmanager
def understood(path: Path, what: str, remedy: str, fault: type[LetheError] = DataError) -> Iterator[None]:
    """Turn whatever a library raises about a user's file into `fault`, which names the file; our own errors pass.

    what  the kind of file, e.g. 'a PNG picture'. Decoders of damaged files raise anything, so any error is meant.
    """
    try:
        yield
    except LetheError:
        raise
    except Exception as error:
        raise fault(f"{shown(path)} cannot be read as {what} ({type(error).__name__}: {reason(error)}), so nothing was used. "
                    f"{remedy}") from error


def expanded(path: Path) -> Path:
    """The path with ~ as the home folder, where there is one."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def exists(path: Path) -> bool:
    """Whether something is there; False also for names that no file can have."""
    try:
        os.stat(path)
    except (OSError, ValueError):
        return False
    return True


def beside(path: Path) -> list[str]:
    """The names in the folder of a path, for proposals."""
    try:
        return sorted(os.listdir(path.parent))[:2000]
    except (OSError, ValueError):
        return []


def shown(path: Path) -> str:
    """A path as it can be printed: one line, not too long."""
    text = "".join(sign if sign.isprintable() else "�" for sign in str(path))
    return text if len(text) <= 200 else f"{text[:120]}…{text[-60:]}"


def reason(error: BaseException) -> str:
    """The first line of an error, cut at a sane length."""
    said = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).strip()
    first = said.splitlines()[0] if said else type(error).__name__
    return first if len(first) <= 160 else f"{first[:160]}…"
