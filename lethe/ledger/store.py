"""The database under the ledger: SQLite in WAL mode (or PostgreSQL), one connection per operation, clear errors.

One connection per operation (1 ms) is safe with threads and forked workers. A SQLite ledger belongs on a local disk:
write-ahead logging does not work across machines; several machines share a PostgreSQL ledger.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, MetaData
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from lethe.core import user_files
from lethe.core.files import make_folder, space, sync
from lethe.errors import DiskFull, StorageError
from lethe.ledger.migrations import columns, current, migrate

PATIENCE = 60.0   # seconds that a writer waits for another one


class Store:
    """An open ledger database: `reading()` and `writing()` yield connections, `tables` the reflected schema."""

    def __init__(self, path_or_url: str | Path):
        text = str(path_or_url)
        self.sqlite = "://" not in text
        self.where = text if self.sqlite else text.rsplit("@", 1)[-1]   # without user and password
        self.folder = Path(text).resolve().parent if self.sqlite else None   # to which entries name their folders
        if self.sqlite:
            with space(Path(text)):
                make_folder(Path(text).parent)
        self.engine = self._engine(text)
        self.tables = MetaData()
        with self.reading() as connection:   # a ledger that is up to date is opened without a lock
            if found := current(connection):
                self.tables.reflect(connection)
        if not found:
            self._migrate(Path(text))
        for name, wanted in columns().items():
            table = self.tables.tables.get(name)
            if table is None or (lost := sorted(wanted - set(table.columns.keys()))):
                what = f"table {name!r}" if table is None else f"column {lost[0]!r} in its table {name!r}"
                raise StorageError(f"the ledger {self.where} has no {what}, so it is damaged; nothing was read or written. "
                                   "Restore it from a backup.")

    def _migrate(self, path: Path) -> None:
        """Make the tables, or bring them up to date."""
        with self.writing() as connection:
            migrate(connection, self.where)
            self.tables.reflect(connection)
        if self.sqlite:
            with space(path):
                sync(path.parent)   # its name is to last, too

    def _engine(self, text: str) -> sa.Engine:
        options: dict[str, Any] = {"poolclass": NullPool}
        url: sa.URL | str = text
        if self.sqlite:
            options["connect_args"] = {"timeout": PATIENCE}
            url = _file(Path(text))
        try:
            engine = sa.create_engine(url, **options)
        except ImportError as error:
            raise StorageError(f"the ledger {self.where} needs the database driver {error.name!r}, which is not "
                               "installed, so it was not opened. For PostgreSQL: pip install \"psycopg[binary]\", and "
                               "write postgresql+psycopg://user@host/name.") from None
        except ArgumentError:
            raise StorageError(f"{self.where!r} is neither a path nor a database URL, so no ledger was opened. Name a "
                               "file, or postgresql+psycopg://user@host/name.") from None
        if self.sqlite:
            sa.event.listen(engine, "connect", _prepare)
            sa.event.listen(engine, "begin", _begin)
        return engine

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one consistent state."""
        with self._clear_errors(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that holds the only pen; everything in it happens or nothing does."""
        with self._clear_errors(), self.engine.execution_options(writes=True).begin() as connection:
            yield connection

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            text = str(error.orig)
            if "is full" in text or "No space left" in text:
                raise DiskFull(f"no space left for the ledger {self.where}; the entry was not written, all earlier "
                               "ones are intact. Free some space and repeat the command.") from error
            if "not a database" in text or "malformed" in text:
                raise StorageError(f"{self.where} is not a ledger ({text}), so nothing was read or written. Move it "
                                   "away or choose another path; restore a damaged ledger from a backup.") from error
            if "disk I/O error" in text:
                raise StorageError(f"the ledger {self.where} could not be written ({text}); the entry was not, all earlier ones "
                                   "are intact. Check the disk and the limit of file sizes, and repeat the command.") from error
            if "locked" in text:
                raise StorageError(f"another process has been writing to the ledger {self.where} for {PATIENCE:.0f} s, "
                                   "so nothing was written. Wait for it, then repeat the command.") from error
            if "unable to open" in text or "readonly" in text:
                raise StorageError(f"the ledger {self.where} cannot be opened for writing ({text}). Check the folder "
                                   "and its permissions.") from error
            if error.connection_invalidated or "connect" in text:
                reason = text.strip().splitlines()[0]
                raise StorageError(f"no connection to the ledger {self.where} ({reason}), so nothing was read or "
                                   "written. Check that the server runs.") from error
            raise self._damaged(error) from error
        except (UnicodeError, TypeError, sa.exc.SQLAlchemyError) as error:   # a TypeError: words in a column of numbers
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StorageError:
        return StorageError(f"the ledger {self.where} cannot be used ({user_files.reason(error)}), so nothing was read or "
                            "written. Restore it from a backup, or move it away.")


def _file(path: Path) -> sa.URL:
    """The URL of a SQLite file. Where nothing can be written beside it, not even SQLite's own files, it is read as it stands."""
    left = path.with_name(f"{path.name}-wal")
    if not path.exists() or os.access(path.parent, os.W_OK) or (left.exists() and left.stat().st_size):
        return sa.URL.create("sqlite", database=str(path))
    return sa.URL.create("sqlite", database=path.resolve().as_uri(), query={"mode": "ro", "immutable": "1", "uri": "true"})


def _prepare(connection: Any, record: Any) -> None:
    connection.isolation_level = None   # sqlite3 must not begin transactions by itself: _begin does
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        with suppress(sqlite3.OperationalError):   # a file that cannot be written is read in the mode that it has
            connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: Connection) -> None:
    # IMMEDIATE: a reader that later writes could find the chain's end moved, and fail without waiting
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")
