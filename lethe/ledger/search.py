"""Which entries of the ledger are asked for: one selection, by indexes, so that it costs what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import TypedDict, Unpack

import sqlalchemy as sa
from sqlalchemy import Select, Table

from lethe.errors import OutOfRange

FOUND_BY_TEXT = ("id", "title", "command", "folder", "scenarios")


class Filters(TypedDict, total=False):
    """What entries must have (see `Ledger.runs`)."""

    method: str | None
    family: str | None
    verdict: str | None
    since: str | date | None
    text: str | None
    limit: int | None


def chosen(tables: Mapping[str, Table], **filters: Unpack[Filters]) -> Select[tuple[int]]:
    """The numbers of the entries, newest first (see `Ledger.runs`)."""
    runs, subjects, failures = tables["runs"], tables["subjects"], tables["failures"]
    later = runs.alias("later")
    query = sa.select(runs.c.entry).order_by(runs.c.entry.desc()).limit(filters.get("limit")).where(
        (runs.c.status != "started") | ~sa.exists().where(later.c.id == runs.c.id, later.c.entry > runs.c.entry))
    since, text = filters.get("since"), filters.get("text")
    asked = {"method": filters.get("method"), "family": filters.get("family"), "verdict": filters.get("verdict")}
    wanted = [subjects.c[key] == value for key, value in asked.items() if value is not None]
    if wanted:   # a list, not a condition on each run: of 5,429 entries, 0.02 instead of 32 s
        query = query.where(runs.c.entry.in_(sa.select(subjects.c.entry).where(subjects.c.role == "method", *wanted)))
    if since is not None:
        query = query.where(runs.c.created >= _moment(since))
    if text is not None:
        in_failures = sa.select(failures.c.entry).where(failures.c.error.icontains(text, autoescape=True))
        inside = [runs.c[key].icontains(text, autoescape=True) for key in FOUND_BY_TEXT]
        query = query.where(sa.or_(runs.c.entry.in_(in_failures), *inside))
    return query


def _moment(since: str | date) -> str:
    if isinstance(since, str):
        try:
            since = datetime.fromisoformat(since)
        except ValueError:
            raise OutOfRange(f"since = {since!r} is not a date, so nothing was listed. Write for instance "
                             "2026-01-31.") from None
    elif not isinstance(since, datetime):
        since = datetime(since.year, since.month, since.day)
    aware = since if since.tzinfo else since.replace(tzinfo=UTC)
    return aware.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
