"""One entry for benchmarks as their authors published them: `parts({'kind': 'lume_set', 'forget': …, 'retain': …}, context)`.

A kind is a file in `lethe/data/published`; it knows the published columns and gives the records of every part (forget, retain,
knowledge_retain, facts, …) with the columns that texts have here. Nothing is fetched: every path is the user's. What was read is
compared with the published versions that Lethe knows, by the digest of the unpacked bytes: `exact: true` refuses all others.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lethe.core import catalogue
from lethe.core.catalogue import entries
from lethe.core.config import build, config
from lethe.core.user_files import lines_of
from lethe.data.context import Context
from lethe.data.paths import located
from lethe.data.records import Record, read_rows
from lethe.errors import DataError, EmptySplit, RequestError, WrongColumn, nearest, unknown_name

OPTION = "a path of data.published"


@config(name="data.published")
class Edition:
    """Options of every kind of published set."""

    kind: str              # lethe describe published
    exact: bool = False    # refuse files that are no published version that Lethe knows


@dataclass
class Files:
    """The user's files of one set. seen: name -> origin of the published version, empty where it is none that is known."""

    context: Context
    versions: Mapping[str, str] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Where a file lies, below the folder of data sets or as it stands."""
        found = located(self.context, name)
        if found.is_file():
            with gzip.open(found, "rb") if found.suffix == ".gz" else open(found, "rb") as handle:
                self.seen[name] = self.versions.get(hashlib.file_digest(handle, "sha256").hexdigest(), "")
        return found

    def rows(self, name: str) -> list[Record]:
        """The records of a file, whose errors name their line."""
        return read_rows(self.path(name))

    def value(self, name: str) -> Any:
        """The value of a JSON file that is no list of records."""
        path = self.path(name)
        try:
            return json.loads(lines_of(path, OPTION))
        except ValueError as error:
            raise DataError(f"{path} is not JSON ({error}), so it cannot be read. Copy the published file again.") from None

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        try:
            located(self.context, name)
        except DataError:
            return False
        return True


def parts(described: Mapping[str, Any], context: Context) -> dict[str, list[Record]]:
    """Part -> records of a published set."""
    common = build(Edition, {key: value for key, value in described.items() if key in ("kind", "exact")})
    if common.kind not in entries("published"):
        raise unknown_name("kind of published set", common.kind, entries("published"), "See them with: lethe describe published.")
    module = catalogue.load("published", common.kind)
    cfg = build(typing.get_type_hints(module.read)["cfg"], {k: v for k, v in described.items() if k not in ("kind", "exact")})
    files = Files(context, getattr(module, "VERSIONS", {}))
    found: dict[str, list[Record]] = module.read(cfg, files)
    strange = [name for name, origin in files.seen.items() if not origin]
    if common.exact and (strange or not files.seen):
        raise DataError(f"data.published.exact is set, and {', '.join(strange) or common.kind} is no published version that "
                        "Lethe knows, so numbers could not be held against published ones; nothing was started. Provide the "
                        "published file, or leave exact out.")
    for name, origin in files.seen.items():
        context.progress(f"{name}: {origin or 'no published version that is known here'}")
    for name, rows in found.items():
        if not rows:
            raise EmptySplit(f"data.published: {common.kind} has no records for {name}, so there is nothing to work on. Check "
                             f"its options: lethe describe published.{common.kind}")
    return found


def text(row: Record, column: str) -> str:
    """The text in a column of a record; DataError with its line where there is none."""
    if column not in row:
        raise WrongColumn(f"{row.place} has no column {column!r}{nearest(column, row)}, so it is no record of this set. Its "
                          f"columns: {', '.join(row)}.")
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
        raise DataError(f"{row.place} has {str(value)[:40]!r} in column {column!r}, which is no text, so it is no record of this "
                        "set. Copy the published file again, or leave the line out.")
    return str(value)


def texts(row: Record, column: str) -> list[str]:
    """The list of texts in a column; DataError with its line where there is none."""
    value = row.get(column)
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one.strip() for one in value):
        raise DataError(f"{row.place} has {str(value)[:40]!r} in column {column!r}, which is no list of texts, so it is no "
                        "record of this set. Copy the published file again, or leave the line out.")
    return value


def chosen(rows: list[Record], column: str, wanted: str, option: str) -> list[Record]:
    """The records with this value; all where none is wanted. RequestError that proposes the nearest for one that is not there."""
    if not wanted:
        return rows
    found = [row for row in rows if text(row, column).casefold() == wanted.replace("_", " ").casefold()]
    if not found:
        known = list(dict.fromkeys(str(row[column]) for row in rows))
        raise RequestError(f"data.published.{option} = {wanted!r} is in no record{nearest(wanted, known)}, so nothing would be "
                           f"forgotten; nothing was started. There are {', '.join(known[:10])}{' …' if len(known) > 10 else ''}.")
    return found


def qa(row: Record, prompt: str, answer: str, *more: str, **columns: Any) -> Record:
    """A record of a question and its answer, with further columns as they stand, and of others."""
    kept = {key: row[key] for key in more if key in row}
    return Record({"prompt": text(row, prompt), "answer": text(row, answer), **kept, **columns}, row.place)


def passage(row: Record, column: str, **columns: Any) -> Record:
    """A record of plain text."""
    return Record({"text": text(row, column), **columns}, row.place)
