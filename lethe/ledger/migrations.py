"""The ledger's schema: an ordered list of numbered functions. It changes only by adding one at the end of `MIGRATIONS`.

    runs       one row per status (started | finished | failed | certified | calibrated): place in the chain, content, hash of
               the one before
    subjects   rows of a finished run: each method, the original, the retrained model; conclusion, cost, configuration
    evidence   one row per measured value: interval, yardstick, verdict
    artefacts  files of the run folder: path, SHA-256, bytes
    failures   error and the command that continues the run

Everything but `migrations` refers to `runs.entry` and is covered by that entry's hash. A later migration may only add
nullable columns or tables: an absent value takes no part in the hash, so old entries keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache

import sqlalchemy as sa
from sqlalchemy import Connection

from lethe.errors import StorageError

CHILDREN = ("subjects", "evidence", "artefacts", "failures")
BOLT = 0x4C65746865   # advisory lock of PostgreSQL: one migrator at a time


def create(connection: Connection) -> None:
    """1: the tables, and triggers that refuse to change or delete a row."""
    place = "entry INTEGER NOT NULL REFERENCES runs(entry), place INTEGER NOT NULL, PRIMARY KEY (entry, place)"
    real = "DOUBLE PRECISION"
    for statement in (
        f"CREATE TABLE runs (entry INTEGER PRIMARY KEY, id TEXT NOT NULL, status TEXT NOT NULL, "
        f"created TEXT NOT NULL, title TEXT, command TEXT, seconds {real}, folder TEXT, config TEXT, versions TEXT, "
        f"scenarios TEXT, previous TEXT NOT NULL UNIQUE, hash TEXT NOT NULL UNIQUE)",
        f"CREATE TABLE subjects (scenario TEXT, family TEXT, name TEXT, method TEXT, role TEXT, kind TEXT, "
        f"seed INTEGER, config TEXT, cost TEXT, notes TEXT, error TEXT, verdict TEXT, text TEXT, {place})",
        f"CREATE TABLE evidence (scenario TEXT, subject TEXT, audit TEXT, metric TEXT, value {real}, low {real}, "
        f"high {real}, n INTEGER, better TEXT, tier TEXT, version INTEGER, verdict TEXT, side TEXT, p {real}, "
        f"p_holm {real}, original {real}, yardstick_mean {real}, yardstick_sd {real}, yardstick_n INTEGER, "
        f"yardstick_low {real}, yardstick_high {real}, {place})",
        f"CREATE TABLE artefacts (path TEXT, sha256 TEXT, bytes BIGINT, {place})",
        f"CREATE TABLE failures (error TEXT, resume TEXT, {place})",
        "CREATE INDEX runs_by_id ON runs (id)",
        "CREATE INDEX subjects_by_method ON subjects (method)",
    ):
        connection.exec_driver_sql(statement)
    for table in ("runs", *CHILDREN):
        _seal(connection, table)


def keep_results(connection: Connection) -> None:
    """2: the results of a finished run as `lethe.results.schema` reads them; label and variant of a row as columns."""
    for statement in ("ALTER TABLE runs ADD COLUMN results TEXT", "ALTER TABLE subjects ADD COLUMN label TEXT",
                      "ALTER TABLE subjects ADD COLUMN variant INTEGER"):
        connection.exec_driver_sql(statement)


def _seal(connection: Connection, table: str) -> None:
    refusal = "the ledger is append-only"
    if connection.dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                                       f"BEGIN SELECT RAISE(ABORT, '{refusal}'); END")
    elif connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"CREATE OR REPLACE FUNCTION lethe_refuse() RETURNS trigger LANGUAGE plpgsql AS "
                                   f"'BEGIN RAISE EXCEPTION ''{refusal}''; END'")
        connection.exec_driver_sql(f"CREATE TRIGGER {table}_sealed BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                                   f"EXECUTE FUNCTION lethe_refuse()")


MIGRATIONS: list[Callable[[Connection], None]] = [create, keep_results]


def columns() -> dict[str, frozenset[str]]:
    """The columns of every table of a ledger that is up to date."""
    return _columns(tuple(MIGRATIONS))


@cache
def _columns(steps: tuple[Callable[[Connection], None], ...]) -> dict[str, frozenset[str]]:
    with sa.create_engine("sqlite://").connect() as connection:
        for step in steps:
            step(connection)
        look = sa.inspect(connection)
        return {name: frozenset(column["name"] for column in look.get_columns(name)) for name in ("runs", *CHILDREN)}


def current(connection: Connection) -> bool:
    """Whether the schema is up to date, so that nothing has to be written."""
    if "migrations" not in sa.inspect(connection).get_table_names():
        return False
    return connection.exec_driver_sql("SELECT max(number) FROM migrations").scalar() == len(MIGRATIONS)


def migrate(connection: Connection, where: str) -> None:
    """Bring the schema up to date inside the caller's exclusive transaction."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({BOLT})")
    present = set(sa.inspect(connection).get_table_names())
    if "migrations" not in present:
        if present:
            raise StorageError(f"{where} is a database of something else (tables: {', '.join(sorted(present)[:5])}), "
                               "so no ledger was made in it. Choose another path.")
        connection.exec_driver_sql("CREATE TABLE migrations (number INTEGER PRIMARY KEY, at TEXT NOT NULL)")
    done = connection.exec_driver_sql("SELECT max(number) FROM migrations").scalar() or 0
    if done > len(MIGRATIONS):
        raise StorageError(f"{where} has schema {done}, and this version of Lethe knows {len(MIGRATIONS)}; nothing was "
                           "read or written. Update Lethe.")
    for number, step in enumerate(MIGRATIONS[done:], start=done + 1):
        step(connection)
        connection.execute(sa.text("INSERT INTO migrations VALUES (:number, :at)"), {"number": number, "at": now()})


def now() -> str:
    """The present moment in UTC; texts of this form sort by time."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
