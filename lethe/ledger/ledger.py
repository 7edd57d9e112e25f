"""The ledger: an append-only chain of what was started, finished and failed, with the evidence of every run.

    hash_k = SHA-256(canonical JSON of entry k with its subjects, evidence, artefacts and failures, and hash_{k−1})

Changing or removing anything breaks the chain from there on, and `verify` names the first broken link. What a chain
alone cannot show is that its newest entries were cut off, or that all of it was rewritten: keep `head()` elsewhere (in
a signed certificate) and pass it to `verify`. No record content is stored: no samples, no prompts, no per-example
values, and not the values by which a request names records (`lethe.core.discretion`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain as chained
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import sqlalchemy as sa
from sqlalchemy import Connection, Select

from lethe.core.discretion import discreet, secrets, without
from lethe.core.files import csv_text
from lethe.errors import OutOfRange, StorageError, unknown_name
from lethe.ledger.migrations import CHILDREN, now
from lethe.ledger.rows import (
    Row,
    case_row,
    content_hash,
    csv_lines,
    digests,
    discreet_results,
    evidence_row,
    opened,
    subject_row,
    to_json,
    typed,
)
from lethe.ledger.search import Filters, chosen
from lethe.ledger.store import Store

if TYPE_CHECKING:
    from lethe.results.schema import Results

GENESIS = "0" * 64


@dataclass(frozen=True)
class Broken:
    """The first entry at which the chain does not hold, and why."""

    entry: int
    reason: str


class Ledger:
    """A ledger in a file (SQLite) or behind a database URL (PostgreSQL); made when it does not exist."""

    def __init__(self, path_or_url: str | Path):
        self.store = Store(path_or_url)

    # -- writing -------------------------------------------------------------------------------------------------------

    def started(self, run: str, title: str = "", command: str = "", config: Mapping[str, Any] | None = None) -> int:
        """Note that a run begins; its entry number. A run that is killed leaves this entry as its trace."""
        words = secrets(config)
        return self._append({
            "id": run, "status": "started", "title": without(title, words), "command": without(command, words),
            "config": to_json(discreet(config or {})),
        })

    def record(self, results: Results, folder: str | Path | None = None, files: Path | None = None) -> int:
        """Note a finished run: conclusions, evidence, costs, SHA-256 of every file in `folder`. Its entry number.

        files  where the files of `folder` still are, if not there
        """
        words = secrets(results.config)
        rows = [(case, row) for case in results.scenarios for row in case.subjects]
        entry = {
            "id": results.id, "status": "finished", "title": without(results.title, words),
            "command": without(results.command, words), "seconds": results.seconds,
            "folder": None if folder is None else self._named(Path(folder)), "config": to_json(discreet(results.config)),
            "versions": to_json(results.versions), "scenarios": to_json([case_row(case, words) for case in results.scenarios]),
            "results": to_json(discreet_results(results, words)),
        }
        return self._append(entry, {
            "subjects": [subject_row(case, row, words) for case, row in rows],
            "evidence": [evidence_row(case, row, item) for case, row in rows for item in row.evidence],
            "artefacts": [] if folder is None else digests(files or Path(folder)),
        })

    def record_failure(self, run: str, config: Mapping[str, Any] | None, command: str, error: str,
                       resume: str | None = None) -> int:
        """Note a run that ended with an error, and the command that continues it (default: the same one)."""
        words = secrets(config)
        entry = {"id": run, "status": "failed", "command": without(command, words),
                 "config": to_json(discreet(config or {}))}
        failure = {"error": without(error, words), "resume": without(command if resume is None else resume, words)}
        return self._append(entry, {"failures": [failure]})

    def certified(self, certificate: str, config: Mapping[str, Any], folder: str | Path) -> int:
        """Note that a certificate was issued: the SHA-256 of `certificate.json`, what it is about, its files' digests."""
        folder = Path(folder)
        return self._append({"id": _certificate(certificate), "status": "certified", "title": "Certificate issued",
                             "folder": self._named(folder), "config": to_json({**config, "certificate": certificate})},
                            {"artefacts": digests(folder)})

    def calibrated(self, policy: str, content: Mapping[str, Any], command: str, config: Mapping[str, Any]) -> None:
        """Note a policy, once: all that it says, under its id. config: the request that it was calibrated for."""
        if not self.history(f"policy-{policy}"):
            self._append({"id": f"policy-{policy}", "status": "calibrated", "title": "Policy calibrated",
                          "command": without(command, secrets(config)), "config": to_json(dict(content))})

    def noted(self, certificate: str) -> bool:
        """Whether a certificate is noted, by the SHA-256 of its `certificate.json`."""
        return bool(self.history(_certificate(certificate)))

    def history(self, run: str) -> list[Row]:
        """The links of a run's entries in the chain, oldest first: entry, status, created, previous, hash. No contents."""
        table = self.store.tables.tables["runs"]
        wanted = [table.c[key] for key in ("entry", "status", "created", "previous", "hash")]
        with self.store.reading() as connection:
            return [dict(row) for row in connection.execute(
                sa.select(*wanted).where(table.c.id == run).order_by(table.c.entry)).mappings()]

    def _append(self, entry: Row, children: Mapping[str, list[Row]] | None = None) -> int:
        tables = self.store.tables.tables
        rows = {name: [typed(tables[name], {**row, "entry": 0, "place": place}) for place, row in enumerate(items)]
                for name, items in (children or {}).items()}
        with self.store.writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("LOCK TABLE runs IN SHARE ROW EXCLUSIVE MODE")
            number, previous = self._end(connection)
            number += 1
            entry = typed(tables["runs"], {**entry, "entry": number, "created": now(), "previous": previous})
            for row in chained.from_iterable(rows.values()):
                row["entry"] = number
            entry["hash"] = content_hash(entry, rows)
            connection.execute(tables["runs"].insert(), entry)
            for name, items in rows.items():
                if items:
                    connection.execute(tables[name].insert(), items)
        return number

    def _end(self, connection: Connection) -> tuple[int, str]:
        runs = self.store.tables.tables["runs"]
        last = connection.execute(sa.select(runs.c.entry, runs.c.hash).order_by(runs.c.entry.desc()).limit(1)).first()
        return (last.entry, last.hash) if last else (0, GENESIS)

    # -- trust ---------------------------------------------------------------------------------------------------------

    def head(self) -> str:
        """'number:hash' of the newest entry: kept elsewhere, it reveals whether the ledger was shortened or rewritten."""
        with self.store.reading() as connection:
            number, value = self._end(connection)
        return f"{number}:{value}"

    def verify(self, head: str | None = None) -> Broken | None:
        """The first broken link, or None when the chain holds. `head`: an earlier `head()` that must still be in it."""
        wanted = _parse_head(head)
        tables = self.store.tables.tables
        with self.store.reading() as connection:
            entries = [dict(row) for row in connection.execute(sa.select(tables["runs"]).order_by("entry")).mappings()]
            children: dict[int, dict[str, list[Row]]] = defaultdict(lambda: {name: [] for name in CHILDREN})
            for name in CHILDREN:
                for row in connection.execute(sa.select(tables[name]).order_by("entry", "place")).mappings():
                    children[row["entry"]][name].append(dict(row))
        previous = GENESIS
        for number, entry in enumerate(entries, start=1):
            if entry["entry"] != number:
                return Broken(number, f"entry {number} is missing: the next one is {entry['entry']}")
            if entry["previous"] != previous:
                return Broken(number, f"entry {number} does not follow from entry {number - 1}")
            stored = entry.pop("hash")
            if content_hash(entry, children.pop(number, {})) != stored:
                return Broken(number, f"the content of entry {number} was changed after it was written")
            if wanted and wanted[0] == number and wanted[1] != stored:
                return Broken(number, f"entry {number} is not the one of the given head: the ledger was rewritten")
            previous = stored
        if children:
            return Broken(min(children), f"rows belong to entry {min(children)}, which does not exist")
        if wanted and wanted[0] > len(entries):
            return Broken(len(entries) + 1, f"entries {len(entries) + 1} to {wanted[0]} were cut off")
        return None

    def changed_artefacts(self, run: str | int) -> list[str]:
        """Files that are missing or differ from what was recorded: of an entry, or of a run's newest entry that has files."""
        found = run if isinstance(run, int) else self._newest(run, files=True)
        entry = self.run(run if found is None else found)
        if not entry["artefacts"]:
            return []
        there = _by_path(digests(Path(entry["folder"])))
        return [row["path"] for row in entry["artefacts"] if there.get(row["path"]) != row["sha256"]]

    def uncovered(self, run: str, folder: Path) -> list[str] | None:
        """Files of `folder` that are missing or differ from the newest finished entry of a run, and files of its models that the
        entry does not know; None when no such entry has files."""
        noted = self._noted(run)
        if not noted:
            return None
        there = _by_path(digests(folder))
        return [path for path, sha in noted.items() if there.get(path) != sha] + [
            path for path in there if path.startswith("models/") and path not in noted]

    def covers(self, run: str, folder: Path) -> bool:
        """Whether the newest finished entry of a run has the digest of every file in `folder`, and of no other."""
        noted = self._noted(run)
        return noted is not None and noted == _by_path(digests(folder))

    def changed(self) -> dict[int, list[str]]:
        """Every entry whose files are missing or changed, and those. A run that was repeated has the files of its newest
        finished entry; a failed or killed repetition changes none."""
        table = self.store.tables.tables["runs"]
        query = sa.select(sa.func.max(table.c.entry)).where(table.c.folder.is_not(None)).group_by(table.c.id)
        with self.store.reading() as connection:
            entries = sorted(connection.execute(query).scalars())
        found = {entry: self.changed_artefacts(entry) for entry in entries}
        return {entry: paths for entry, paths in found.items() if paths}

    def _noted(self, run: str) -> dict[str, str] | None:
        """Path -> SHA-256 of the files of a run's newest finished entry; None when it has no such entry."""
        entry = self._newest(run)
        return None if entry is None else _by_path(self.run(entry)["artefacts"])

    def _newest(self, run: str, files: bool = False) -> int | None:
        """The newest finished entry of a run; with `files`, the newest one that has files, whatever its status."""
        table = self.store.tables.tables["runs"]
        which = table.c.folder.is_not(None) if files else table.c.status == "finished"
        query = sa.select(sa.func.max(table.c.entry)).where(table.c.id == run, which)
        with self.store.reading() as connection:
            entry = connection.execute(query).scalar()
        return None if entry is None else int(entry)

    def _named(self, folder: Path) -> str:
        """A folder as an entry names it: relative to the ledger where it lies beside or below it, else whole."""
        home = self.store.folder
        inside = home is not None and folder.resolve().is_relative_to(home)
        return folder.resolve().relative_to(home).as_posix() if inside and home is not None else str(folder.resolve())

    def _opened(self, row: Row) -> Row:
        """An entry whose JSON columns are data again, with its folder as it stands here."""
        entry = opened(row)
        home = self.store.folder
        if entry.get("folder") is not None and home is not None:
            named = Path(entry["folder"])
            entry["folder"] = str(next((place for place in (home / named, home / named.name) if place.exists()), home / named))
        return entry

    # -- reading -------------------------------------------------------------------------------------------------------

    def runs(self, **filters: Unpack[Filters]) -> list[Row]:
        """Entries, newest first, each with family, methods, verdicts and failure. All filters must hold.

        method, family, verdict   of one and the same method of the run
        since                     ISO date or time (UTC where it names no zone)
        text                      anywhere in title, command, folder, request or error
        A 'started' entry is listed only while nothing later is known of its run: it runs, or it was killed.
        """
        tables = self.store.tables.tables
        runs = tables["runs"]
        which = chosen(tables, **filters)
        listed = [column for column in runs.columns if column.name != "results"]
        query = sa.select(*listed).where(runs.c.entry.in_(which)).order_by(runs.c.entry.desc())
        with self.store.reading() as connection:
            found = [self._opened(dict(row)) for row in connection.execute(query).mappings()]
            methods = self._children(connection, "subjects", which)
            errors = self._children(connection, "failures", which)
        for entry in found:
            entry["methods"] = [{key: row[key] for key in ("scenario", "family", "name", "seed", "verdict", "text")}
                                for row in methods[entry["entry"]] if row["role"] == "method"]
            entry["family"] = ", ".join(dict.fromkeys(str(case["family"]) for case in entry["scenarios"] or []))
            entry["failure"] = next(({k: r[k] for k in ("error", "resume")} for r in errors[entry["entry"]]), None)
        return found

    def listed(self, **filters: Unpack[Filters]) -> list[Row]:
        """What a list shows of the entries of `runs` with these filters: entry, created, id, status, family, title."""
        tables = self.store.tables.tables
        runs, subjects = tables["runs"], tables["subjects"]
        own = sa.select(subjects.c.family).where(subjects.c.entry == runs.c.entry).distinct().correlate(runs).subquery()
        families = sa.select(sa.func.aggregate_strings(own.c.family, ", ")).scalar_subquery()
        keys = ("entry", "created", "id", "status", "title", "family")
        query = chosen(tables, **filters).with_only_columns(*(runs.c[key] for key in keys[:-1]), sa.func.coalesce(families, ""))
        with self.store.reading() as connection:   # one query: of 50,000 entries, 0.15 instead of 0.44 s
            return [dict(zip(keys, row, strict=True)) for row in connection.execute(query).all()]

    def run(self, run: str | int) -> Row:
        """One entry with all but what was measured: by entry number, or the newest one of a run id (or its beginning)."""
        table = self.store.tables.tables["runs"]
        shown = [column for column in table.columns if column.name != "results"]
        chosen = table.c.entry == run if isinstance(run, int) else table.c.id.startswith(run, autoescape=True)
        with self.store.reading() as connection:
            rows = connection.execute(sa.select(*shown).where(chosen).order_by(table.c.entry.desc())).mappings().all()
            if not rows:
                known = [str(row) for row in connection.execute(sa.select(table.c.id).distinct()).scalars()]
                raise unknown_name("run", str(run), known, "See them with: lethe results.")
            several = len({row["id"] for row in rows})
            if several > 1:
                raise OutOfRange(f"{run!r} is the beginning of {several} runs, so none was chosen. Write more of it.")
            entry = self._opened(dict(rows[0]))
            for name in ("subjects", "artefacts", "failures"):
                entry[name] = [opened(row) for row in self._children(connection, name, [entry["entry"]])[entry["entry"]]]
        return entry

    def results(self, run: str | int) -> Results:
        """The results of a finished run as the ledger keeps them: without samples, details and the values that name records.

        Of a Lethe before results had a schema the ledger holds the columns alone: StorageError.
        """
        from lethe.results import schema

        entry = self.run(run)
        runs = self.store.tables.tables["runs"]
        with self.store.reading() as connection:
            kept = connection.execute(sa.select(runs.c.results).where(runs.c.entry == entry["entry"])).scalar()
        if kept is None:
            raise StorageError(f"entry {entry['entry']} ({entry['status']}) of the ledger holds no results: the run is not "
                               "finished, or was noted before results had a schema. Read results.json in its folder: "
                               f"{entry['folder'] or 'not noted'}.")
        return schema.read(opened({"entry": entry["entry"], "results": kept})["results"], f"entry {entry['entry']} of the ledger")

    def finished(self, run: str) -> bool:
        """Whether this run id is finished: the same configuration hash means 'already done'."""
        return self._newest(run) is not None

    def evidence(self, run: str | int) -> list[Row]:
        """Every measured value of a run (of its newest entry)."""
        entry = self.run(run)
        with self.store.reading() as connection:
            return self._children(connection, "evidence", [entry["entry"]])[entry["entry"]]

    def export(self, form: str = "json") -> str:
        """The whole ledger: 'json' (every entry with everything that belongs to it) or 'csv' (one line per value)."""
        if form not in ("json", "csv"):
            raise OutOfRange(f"export form {form!r} is neither json nor csv; nothing was exported.")
        table = self.store.tables.tables["runs"]
        with self.store.reading() as connection:
            entries = [dict(row) for row in connection.execute(sa.select(table).order_by(table.c.entry)).mappings()]
            parts = {name: self._children(connection, name, None) for name in CHILDREN}
        if form == "json":
            for entry in entries:
                entry.update({name: [opened(row) for row in parts[name][entry["entry"]]] for name in CHILDREN})
            return json.dumps([opened(entry) for entry in entries], indent=2, ensure_ascii=False) + "\n"
        return csv_text(list(chained.from_iterable(csv_lines(entry, parts) for entry in entries)))

    def _children(self, connection: Connection, name: str, entries: Sequence[int] | Select[tuple[int]] | None
                  ) -> dict[int, list[Row]]:
        """Rows of a table by the entry that they belong to: of these entries, None: of all."""
        table = self.store.tables.tables[name]
        query = sa.select(table).order_by(table.c.entry, table.c.place)
        if entries is not None:
            query = query.where(table.c.entry.in_(entries))
        found: dict[int, list[Row]] = defaultdict(list)
        for row in connection.execute(query).mappings():
            found[row["entry"]].append(dict(row))
        return found


def _by_path(files: Sequence[Row]) -> dict[str, str]:
    """Path -> SHA-256."""
    return {row["path"]: row["sha256"] for row in files}


def _certificate(sha: str) -> str:
    return f"certificate-{sha[:16]}"


def _parse_head(head: str | None) -> tuple[int, str] | None:
    if head is None:
        return None
    number, _, value = head.partition(":")
    if not number.isdigit() or not value:
        raise OutOfRange(f"head {head!r} is not 'number:hash', so nothing was verified. Pass what `head()` returned.")
    return int(number), value
