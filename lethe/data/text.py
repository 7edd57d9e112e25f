"""Text: files of prompts and answers (JSON lines) or of plain text, tokenised into a `Split` of sequences.

    {"question": "Who wrote it?", "answer": "Ada Brill.", "author": 7, "id": "q17"}     one record per line, .jsonl[.gz]

Columns: `ids` [n, T] tokens, `labels` [n, T] the same where they count and −100 on the prompt, `length` [n]; `meta`
holds the texts and every other column of the file, so that selections can use them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lethe.core.sequences import Format, encode_answers, encode_prompts, end, pack, pad_id, padding
from lethe.core.split import Split
from lethe.errors import DataError, EmptySplit, WrongColumn, nearest


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Records of a .jsonl (or .json list) file; paragraphs of a .txt file as {'text': …}. Either may be gzipped."""
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist, so there is no text to read. Check the path, or pass --data-root.")
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as handle:
        content = handle.read()
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind == ".txt":
        rows: list[Any] = [{"text": part.strip()} for part in content.split("\n\n") if part.strip()]
    elif kind == ".json":
        rows = json.loads(content)
    else:
        rows = []
        for number, line in enumerate(content.splitlines(), 1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise DataError(f"line {number} of {path} is not JSON ({error.msg}), so the file cannot be read. "
                                    "Write one object per line.") from None
    if not rows:
        raise EmptySplit(f"{path} holds no records, so there is nothing to work on. Provide a file with at least one.")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} holds something other than records, so its columns are unknown. Write one JSON "
                        "object per line.")
    return rows


def tokenised(rows: Sequence[Mapping[str, Any]], tokenizer: Any, form: Format, name: str) -> Split:
    """Records as a split of sequences."""
    if not rows:
        raise EmptySplit(f"{name} has no records, so there is nothing to work on. Check the file or the selection.")
    prompted = form.prompt in rows[0] or form.text not in rows[0]
    wanted = (form.prompt, form.answer) if prompted else (form.text,)
    for place, row in enumerate(rows):
        for column in wanted:
            if column not in row:
                raise WrongColumn(f"record {place} of {name} has no column {column!r}{nearest(column, row)}, so it "
                                  f"has no text. Its columns: {', '.join(row)}. Name yours: prompt=, answer= or text=.")
    names = _names(rows, form, name)
    if prompted:
        prompts, answers = [str(row[form.prompt]) for row in rows], [str(row[form.answer]) for row in rows]
        heads, tails = encode_prompts(prompts, tokenizer, form), encode_answers(answers, tokenizer, form)
        texts = {"prompt": prompts, "answer": answers}
    else:
        whole = [str(row[form.text]) for row in rows]
        begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        tails = [list(t) + end(tokenizer) for t in tokenizer(whole, add_special_tokens=False)["input_ids"]]
        texts, heads = {"prompt": [""] * len(rows), "answer": whole}, [list(begin) for _ in rows]
        if form.long == "split":
            room = form.max_length - len(begin)
            cut = [(i, tail[k : k + room]) for i, tail in enumerate(tails) for k in range(0, len(tail), room)]
            counts = np.bincount([i for i, _ in cut], minlength=len(rows))
            pieces = [(i, k) for i in range(len(rows)) for k in range(counts[i])]
            names = [f"{names[i]}#{k}" if counts[i] > 1 else names[i] for i, k in pieces]
            rows, heads, tails = [rows[i] for i, _ in cut], [list(begin)] * len(cut), [tail for _, tail in cut]
            texts = {"prompt": [""] * len(cut), "answer": [tokenizer.decode(tail) for tail in tails]}
    columns = pack(heads, tails, pad_id(tokenizer), form, name)
    others = {key: _meta([row.get(key) for row in rows]) for key in dict.fromkeys(key for row in rows for key in row)}
    return Split(columns, name, np.array(names), {**others, **texts}, padding(tokenizer))


def _names(rows: Sequence[Mapping[str, Any]], form: Format, name: str) -> list[str]:
    column = form.id or ("id" if all("id" in row for row in rows) else None)
    if column is None:
        return [f"{name}:{i}" for i in range(len(rows))]
    missing = [i for i, row in enumerate(rows) if column not in row]
    if missing:
        raise WrongColumn(f"record {missing[0]} of {name} has no column {column!r}, so it has no identifier. Its "
                          f"columns: {', '.join(rows[missing[0]])}. Name the right one: id=.")
    names = [str(row[column]) for row in rows]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise DataError(f"identifier {twice!r} in column {column!r} of {name} stands on several records, so a "
                        "deletion request for it would be ambiguous. Make the identifiers unique or leave id= out.")
    return names


def _meta(values: list[Any]) -> list[Any]:
    """A column of the file; where records lack it and the others hold text, it is empty text."""
    return ["" if v is None else v for v in values] if any(isinstance(v, str) for v in values) else values
