"""Rows of the ledger: from results to columns, the hash over an entry, and back to data."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table

from lethe.core.discretion import discreet, in_texts, without
from lethe.core.files import file_hash
from lethe.errors import StorageError

if TYPE_CHECKING:   # the schema is imported when results are written or read: listing runs does without
    from lethe.results import schema
    from lethe.results.schema import Measurement, Results, Scenario

CASE = {"name", "family", "score_name", "sizes", "fingerprints", "references", "not_tested"}
VALUE = ("audit", "metric", "value", "low", "high", "n", "better", "tier", "version", "verdict", "side", "p",
         "original")
YARDSTICK = ("mean", "sd", "n", "low", "high")
AS_JSON = ("config", "versions", "scenarios", "cost", "notes", "results")   # columns that hold JSON
Row = dict[str, Any]


def content_hash(entry: Mapping[str, Any], children: Mapping[str, list[Row]]) -> str:
    """SHA-256 over the whole content of an entry. Absent values take no part, so that new columns leave old hashes alone."""
    belongs = {name: [_present(row) for row in rows] for name, rows in children.items() if rows}
    content = {"run": _present(entry), **belongs}
    return hashlib.sha256(to_json(content).encode()).hexdigest()


def digests(folder: Path) -> list[Row]:
    """Path, SHA-256 and size of every file below `folder` that is not hidden."""
    return [{"path": path.relative_to(folder).as_posix(), "sha256": file_hash(path), "bytes": path.stat().st_size}
            for path in visible(folder)]


def visible(folder: Path) -> list[Path]:
    """Every file below `folder` that is not hidden, in order."""
    return [path for path in sorted(folder.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def case_row(case: Scenario, words: Set[str]) -> Row:
    """What is kept of a scenario besides its subjects."""
    kept = case.model_dump(mode="json", include=CASE)
    return {**kept, "request": without(case.request, words)}


def subject_row(case: Scenario, row: schema.Row, words: Set[str]) -> Row:
    """One method, the original or the retrained model."""
    return {
        "scenario": case.name, "family": case.family, "name": row.name, "label": row.label, "variant": row.variant,
        "role": row.role, "method": row.method or row.label or row.name, "kind": row.kind, "seed": row.seed,
        "config": to_json(discreet(row.config)), "cost": to_json(row.cost.model_dump(mode="json")),
        "notes": without(to_json(row.notes), words), "error": without(row.error, words),
        "verdict": row.conclusion.verdict, "text": without(row.conclusion.text, words),
    }


def evidence_row(case: Scenario, row: schema.Row, item: Measurement) -> Row:
    """One measured value."""
    return {"scenario": case.name, "subject": row.name, **{key: getattr(item, key) for key in VALUE}, "p_holm": item.p_joint,
            **{f"yardstick_{key}": getattr(item.yardstick, key, None) for key in YARDSTICK}}


def discreet_results(results: Results, words: Set[str]) -> Row:
    """The results as JSON-ready data without record content: no samples, no details, no values that name records.

    words  texts by which the request names records, taken out wherever they stand
    """
    from lethe.results import schema

    data = schema.plain(results)
    data["config"] = discreet(data["config"])
    for case in data["scenarios"]:
        case["facts"] = {}
        for row in case["subjects"]:
            row.update(config=discreet(row["config"]), samples=[], search=[])
            for item in row["evidence"]:
                item.update(detail={}, histogram=None)
    kept: Row = in_texts(data, lambda text: without(text, words))
    return kept


def csv_lines(entry: Row, parts: Mapping[str, Mapping[int, list[Row]]]) -> list[Row]:
    """Lines of the CSV: an entry beside each of its values; subjects without values and failures get a line, too."""
    number = entry["entry"]
    base = {key: entry[key] for key in ("entry", "id", "status", "created", "title", "hash")}
    error = {"error": parts["failures"][number][0]["error"]} if parts["failures"][number] else {"error": None}
    lines = []
    for subject in parts["subjects"][number] or [{}]:
        about = {key: subject.get(key) for key in ("scenario", "family", "role", "method", "seed")}
        about |= {"subject": subject.get("name"), "conclusion": subject.get("verdict"),
                  "error": subject.get("error") or error["error"]}
        mine = [row for row in parts["evidence"][number]
                if (row["scenario"], row["subject"]) == (subject.get("scenario"), subject.get("name"))]
        for row in mine or [dict.fromkeys(("audit", "metric"))]:
            rest = {k: v for k, v in row.items() if k not in ("entry", "place", "scenario", "subject")}
            lines.append({**base, **about, **rest})
    return lines


def typed(table: Table, row: Row) -> Row:
    """`row` with every column, as the database will return it: the hash is taken of exactly that."""
    columns = [column for column in table.columns if column.name != "hash"]
    return {column.name: _cast(row.get(column.name), column.type.python_type) for column in columns}


def _cast(value: Any, kind: type) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if kind is str:   # neither lone surrogates nor NUL can be stored
        return str(value).encode("utf-8", "backslashreplace").decode().replace("\0", "�")
    return int(value) if kind is int else float(value)


def _present(row: Mapping[str, Any]) -> Row:
    return {key: value for key, value in row.items() if value is not None and key != "hash"}


def to_json(value: Any) -> str:
    """Canonical JSON: equal data give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def opened(row: Row) -> Row:
    """A row whose JSON columns are data again; StorageError for values that no ledger wrote."""
    try:
        found = {key: json.loads(item) if key in AS_JSON and isinstance(item, str) else item for key, item in row.items()}
    except (ValueError, RecursionError):
        raise _damaged(row, "a value that is no JSON") from None
    scenarios = found.get("scenarios")
    if any(isinstance(item, bytes) for item in found.values()):
        raise _damaged(row, "bytes in place of text")
    if scenarios is not None and not (isinstance(scenarios, list) and all(isinstance(case, Mapping) for case in scenarios)):
        raise _damaged(row, "scenarios that are none")
    return found


def _damaged(row: Row, what: str) -> StorageError:
    return StorageError(f"entry {row.get('entry')} of the ledger holds {what}, so it was changed after it was written and "
                        "nothing more was read. Compare with a backup: lethe results --verify.")
