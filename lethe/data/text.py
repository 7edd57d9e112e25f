"""Text: files of prompts and answers (JSON lines) or of plain text, tokenised into a `Split` of sequences.

    {"question": "Who wrote it?", "answer": "Ada Brill.", "author": 7, "id": "q17"}     one record per line, .jsonl[.gz]

Columns: `ids` [n, T] tokens, `labels` [n, T] the same where they count and −100 on the prompt, `length` [n]; `meta`
holds the texts and every other column of the file, so that selections can use them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lethe.core.sequences import Format, encode_answers, encode_prompts, end, pack, pad_id, padding
from lethe.core.split import Split
from lethe.core.user_files import lines_of, reason
from lethe.errors import DataError, EmptySplit, WrongColumn, nearest


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Records of a .jsonl (or .json list) file; paragraphs of a .txt file as {'text': …}. Either may be gzipped."""
    path = Path(path)
    content = lines_of(path, "the path, or pass --data-root")
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind == ".txt":
        rows: list[Any] = [{"text": part.strip()} for part in content.split("\n\n") if part.strip()]
    elif kind == ".json":
        rows = _json(content, f"{path}", "Write a list of objects.")
    else:   # \n alone ends a line: JSON may hold U+2028 and U+0085, where `splitlines` would cut
        rows = [_json(line, f"line {number} of {path}", "Write one object per line.")
                for number, line in enumerate(content.split("\n"), 1) if line.strip()]
    if not rows:
        raise EmptySplit(f"{path} holds no records, so there is nothing to work on. Provide a file with at least one.")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} holds something other than records, so its columns are unknown. Write one JSON "
                        "object per line.")
    return rows


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
            if not isinstance(row[column], (str, int, float)):
                raise DataError(f"record {place} of {name} has {str(row[column])[:40]!r} in column {column!r}, which is no text, "
                                "so nothing could be learnt from it. Write text there, or leave the record out.")
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
