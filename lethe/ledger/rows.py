"""Rows of the ledger: from results to columns, the hash over an entry, and back to data."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Table

from lethe.ledger.discretion import discreet, without

CASE = ("name", "family", "score_name", "sizes", "fingerprints", "references", "not_tested")
VALUE = ("audit", "metric", "value", "low", "high", "n", "better", "tier", "version", "verdict", "side", "p", "p_holm",
         "original")
YARDSTICK = ("mean", "sd", "n", "low", "high")
AS_JSON = ("config", "versions", "scenarios", "cost", "notes")   # columns that hold JSON
Row = dict[str, Any]


def content_hash(entry: Mapping[str, Any], children: Mapping[str, list[Row]]) -> str:
    """SHA-256 over all that an entry says. Absent values take no part, so that new columns leave old hashes alone."""
    belongs = {name: [_present(row) for row in rows] for name, rows in children.items() if rows}
    content = {"run": _present(entry), **belongs}
    return hashlib.sha256(to_json(content).encode()).hexdigest()


def digests(folder: Path) -> list[Row]:
    """Path, SHA-256 and size of every file below `folder` that is not hidden."""
    found = []
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inner.parts):
            with open(path, "rb") as handle:
                sha = hashlib.file_digest(handle, "sha256").hexdigest()
            found.append({"path": inner.as_posix(), "sha256": sha, "bytes": path.stat().st_size})
    return found


def case_row(case: Mapping[str, Any], words: set[str]) -> Row:
    """What is kept of a scenario beside its subjects."""
    return {**{key: case.get(key) for key in CASE}, "request": without(case.get("request"), words)}


def subject_row(case: Mapping[str, Any], subject: Mapping[str, Any], words: set[str]) -> Row:
    """One method, the original or the retrained model."""
    ending = subject.get("conclusion") or {}
    config = subject.get("config") or {}
    name = str(subject["name"])
    return {
        "scenario": case.get("name"), "family": case.get("family"), "name": name, "role": subject.get("role"),
        "method": config.get("name") or re.split(r" seed \d+$| \(", name)[0], "kind": subject.get("kind"),
        "seed": subject.get("seed"), "config": to_json(discreet(config)), "cost": to_json(subject.get("cost")),
        "notes": without(to_json(subject.get("notes")), words), "error": without(subject.get("error"), words),
        "verdict": ending.get("verdict"), "text": without(ending.get("text"), words),
    }


def evidence_row(case: Mapping[str, Any], subject: Mapping[str, Any], item: Mapping[str, Any]) -> Row:
    """One measured value."""
    yardstick = item.get("yardstick") or {}
    return {"scenario": case.get("name"), "subject": subject["name"], **{key: item.get(key) for key in VALUE},
            **{f"yardstick_{key}": yardstick.get(key) for key in YARDSTICK}}


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
    """`row` with every column, as the database will give it back: the hash is taken of exactly that."""
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
    """A row whose JSON columns are data again."""
    return {key: json.loads(item) if key in AS_JSON and isinstance(item, str) else item for key, item in row.items()}
