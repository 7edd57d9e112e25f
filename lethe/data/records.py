"""Records in files: JSON lines, JSON lists, plain text, .csv, .tsv, .parquet, and Hugging Face data sets on disk.

    {"question": "Who wrote it?", "answer": "Ada Brill.", "author": 7, "id": "q17"}     one record per line, .jsonl[.gz]
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lethe.core.extras import needs_extra
from lethe.core.user_files import lines_of, reason, regular, understood
from lethe.data.sources.dataset import arrow
from lethe.errors import DataError, EmptySplit

OPTION = "the path, or pass --data-root"


class Record(dict[str, Any]):
    """The columns of a record, and where it stands: `line 3 of qa.jsonl`."""

    def __init__(self, columns: Mapping[str, Any], place: str) -> None:
        super().__init__(columns)
        self.place = place


def read_rows(path: str | Path) -> list[Record]:
    """The records of a file, or of a folder that `save_to_disk` wrote or that holds .parquet files.

    .jsonl, .json (a list, or such lines, too), .csv, .tsv: columns as they stand there; .txt: paragraphs as {'text': …}. Any may
    be gzipped.
    """
    path = regular(Path(path), OPTION, folder=True)
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if path.is_dir():
        rows = _folder(path)
    elif kind == ".parquet":
        rows = _parquet(path)
    elif kind in (".csv", ".tsv"):
        rows = _table(path, "\t" if kind == ".tsv" else ",")
    else:
        rows = _text(path, kind)
    if not rows:
        raise EmptySplit(f"{path} holds no records, so there is nothing to work on. Provide a file with at least one.")
    return rows


def place_of(rows: Sequence[Mapping[str, Any]], position: int, name: str) -> str:
    """What errors call a record: the line of its file, or its position."""
    row = rows[position]
    return row.place if isinstance(row, Record) else f"record {position} of {name}"


def _text(path: Path, kind: str) -> list[Record]:
    content = lines_of(path, OPTION)
    if kind == ".txt":
        return [Record({"text": part.strip()}, f"paragraph {number} of {path}") for number, part in
                enumerate((part for part in content.split("\n\n") if part.strip()), 1)]
    if kind == ".json" and not _is_lines(content):
        found = _json(content, f"{path}", "Write a list of objects.")
        lines = [(f"entry {number} of {path}", row) for number, row in enumerate(found, 1)] if isinstance(found, list) else None
    else:   # \n alone ends a line: JSON may hold U+2028 and U+0085, where `splitlines` would cut
        lines = [(place, _json(line, place, "Write one object per line.")) for number, line in enumerate(content.split("\n"), 1)
                 if line.strip() and (place := f"line {number} of {path}")]
    if lines is None or not all(isinstance(row, dict) for _, row in lines):
        raise DataError(f"{path} holds something other than records, so its columns are unknown. Write one JSON "
                        "object per line.")
    return [Record(row, place) for place, row in lines]


def _is_lines(content: str) -> bool:
    """Whether its first line is an object by itself, and others follow: many sets publish lines of JSON as .json."""
    first, _, rest = content.strip().partition("\n")
    try:
        return bool(rest.strip()) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _json(text: str, place: str, remedy: str) -> Any:
    """The value of a JSON text; DataError with its place for what is none, or could not be written back as UTF-8."""
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise DataError(f"{place} is not JSON ({error.msg}: line {error.lineno}, column {error.colno}), so the file cannot be "
                        f"read. {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} cannot be used ({reason(error)}), so the file was not read. {remedy}") from None
    return found


def _table(path: Path, separator: str) -> list[Record]:
    """Every value as the text that stands there."""
    reader = csv.reader(io.StringIO(lines_of(path, OPTION), newline=""), delimiter=separator, strict=True)
    rows: list[Record] = []
    try:
        header = next(reader, [])
        for values in reader:
            if values and len(values) != len(header):
                raise DataError(f"line {reader.line_num} of {path} has {len(values)} values for {len(header)} columns, so they "
                                "cannot be assigned. Correct the line, or quote values that hold the separator.")
            if values:
                rows.append(Record(dict(zip(header, values, strict=True)), f"line {reader.line_num} of {path}"))
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} of {path} cannot be read as a table ({error}), so there are no records. Correct "
                        "its quotes and separators.") from None
    if len(set(header)) < len(header):
        raise DataError(f"{path} has two columns of one name, so it is not clear which one is meant. Rename one.")
    return rows


def _parquet(path: Path) -> list[Record]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise needs_extra("data", path.name, "pyarrow", "it was not read") from None
    with understood(path, "parquet", "Write it again."):
        found = pyarrow.parquet.ParquetFile(path).read().to_pylist()
    return [Record(row, f"row {number} of {path}") for number, row in enumerate(found)]


def _folder(path: Path) -> list[Record]:
    """A data set that `save_to_disk` wrote, or the .parquet files of one part."""
    if (path / "state.json").exists():
        with understood(path, "a data set on disk", "Save it again with dataset.save_to_disk(…)."):
            found = arrow(path).to_pylist()
        return [Record(row, f"row {number} of {path}") for number, row in enumerate(found)]
    if (path / "dataset_dict.json").exists():
        parts = sorted(part.name for part in path.iterdir() if (part / "state.json").exists())
        raise DataError(f"{path} is a data set of several parts ({', '.join(parts)}), so it is not clear which is meant; nothing "
                        f"was read. Name one: {path / parts[0] if parts else path}.")
    files = sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")])
    parts = sorted({file.name.split("-")[0].removesuffix(".parquet") for file in files})
    if len(parts) > 1:
        raise DataError(f"{path} holds parquet files of several parts ({', '.join(parts)}), so it is not clear which is meant; "
                        "nothing was read. Name the file, or put the files of one part into a folder.")
    if not files:
        raise DataError(f"{path} is a folder without state.json and without .parquet files, so it is no data set. Name a file, "
                        "or a folder written by dataset.save_to_disk(…).")
    return [row for file in files for row in _parquet(file)]
