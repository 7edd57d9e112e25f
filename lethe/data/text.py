"""Text: records of prompts and answers, of conversations or of plain text, tokenised into a `Split` of sequences.

Columns: `ids` [n, T] tokens, `labels` [n, T] the same where they count and −100 on the prompt, `length` [n]; `meta`
holds the texts (`prompt`, `answer`, of chats `rendered`) and every other column of the file, so that selections can use them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lethe.core import chat
from lethe.core.sequences import IGNORED, Format, encode_pairs, end, pack, pad_id, padding
from lethe.core.split import Split
from lethe.data.records import place_of
from lethe.errors import DataError, EmptySplit, RequestError, SplitsOverlap, WrongColumn, nearest

MARKED = 60   # tokens that a line of tokens shows


class Texts(NamedTuple):
    """Prompts with answers; `plain`: texts without a prompt, every token of which counts."""

    prompts: list[str]
    answers: list[str]
    plain: bool


def tokenised(rows: Sequence[Mapping[str, Any]], tokenizer: Any, form: Format, name: str) -> Split:
    """Records as a split of sequences."""
    if not rows:
        raise EmptySplit(f"{name} has no records, so there is nothing to work on. Check the file or the selection.")
    told = _texts(rows, form, name)
    names = _names(rows, form, name)
    places = [place_of(rows, i, name) for i in range(len(rows))]
    texts: dict[str, list[str]] = {"prompt": told.prompts, "answer": told.answers}
    if not told.plain:
        if form.template == "chat":
            told = told._replace(prompts=[chat.Conversation(*chat.asked(prompt, form), head=chat.opening(prompt, tokenizer, form))
                                          for prompt in told.prompts])
            turns = [chat.written(*pair, tokenizer, form) for pair in zip(told.prompts, told.answers, strict=True)]
            texts = {"prompt": told.prompts, "answer": told.answers, "rendered": [turn.head + turn.tail for turn in turns]}
        heads, tails = encode_pairs(told.prompts, told.answers, tokenizer, form)
    else:
        begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        tails = [list(t) + end(tokenizer) for t in tokenizer(told.answers, add_special_tokens=False)["input_ids"]]
        heads = [list(begin) for _ in rows]
        if form.long == "split":
            room = form.max_length - len(begin)
            cut = [(i, tail[k : k + room]) for i, tail in enumerate(tails) for k in range(0, len(tail), room)]
            counts = np.bincount([i for i, _ in cut], minlength=len(rows))
            pieces = [(i, k) for i in range(len(rows)) for k in range(counts[i])]
            names = [f"{names[i]}#{k}" if counts[i] > 1 else names[i] for i, k in pieces]
            rows, heads, tails = [rows[i] for i, _ in cut], [list(begin)] * len(cut), [tail for _, tail in cut]
            places = [places[i] for i, _ in cut]
            texts = {"prompt": [""] * len(cut), "answer": [tokenizer.decode(tail) for tail in tails]}
    columns = pack(heads, tails, pad_id(tokenizer), form, name, places)
    others = {key: _meta([row.get(key) for row in rows]) for key in dict.fromkeys(key for row in rows for key in row)}
    return Split(columns, name, np.array(names), {**others, **texts}, padding(tokenizer))


def marked(split: Split, position: int, tokenizer: Any) -> str:
    """One example as a line of tokens, those that count in brackets: `<begin>|Who|?|[ Ada]|[.]|[<end>]`."""
    count = int(split.columns["length"][position])
    ids, labels = (split.columns[key][position, :count].tolist() for key in ("ids", "labels"))
    words = [str(tokenizer.decode([token])).replace("\n", "⏎") for token in ids]
    shown = [word if label == IGNORED else f"[{word}]" for word, label in zip(words, labels, strict=True)]
    first = next((i for i, label in enumerate(labels) if label != IGNORED), 0)
    start = max(0, min(first - MARKED // 2, count - MARKED))
    return ("…|" if start else "") + "|".join(shown[start : start + MARKED]) + ("|…" if start + MARKED < count else "")


def apart(splits: Mapping[str, Split]) -> dict[str, Split]:
    """Splits of several files: those with equal ids for other records get their name before them.

    SplitsOverlap when a record to forget stands among those that stay, whatever its id.
    """
    require_apart(splits)
    seen: set[str] = set()
    out = {}
    for name, split in splits.items():
        ids = split.ids.astype(str)
        if seen & set(ids.tolist()):
            ids = np.array([f"{name}/{one}" for one in ids])
            split = Split(split.columns, split.name, ids, split.meta, split.padding)
        seen |= set(ids.tolist())
        out[name] = split
    return out


def divided(train: Split, forget: Split) -> tuple[Split, Split]:
    """(forget, retain) parts of a training set: what equals a record to forget, whatever its id, and the rest.

    DataError for a record to forget that does not stand there; EmptySplit where nothing stays.
    """
    wanted = dict(zip(forget.contents(), forget.ids.astype(str), strict=True))
    found = train.contents()
    known = set(found)
    if absent := [name for content, name in wanted.items() if content not in known]:
        raise DataError(f"{len(absent)} of {len(wanted)} records to forget ({', '.join(absent[:3])}) stand nowhere in the "
                        "training data with equal text, so the model was not trained on them as they are written; nothing was "
                        "started. Correct them or the training data, or name what stays, in place of all of it: data.retain.")
    mask = np.array([content in wanted for content in found])
    if mask.all():
        raise EmptySplit("the records to forget are all of the training data, so nothing would be retained. Forget fewer.")
    return train.subset(mask, "forget"), train.subset(~mask, "retain")


def require_apart(splits: Mapping[str, Split]) -> None:
    """SplitsOverlap when forget and retain hold a record of equal content."""
    if not {"forget", "retain"} <= splits.keys():
        return
    forget, retain = splits["forget"], splits["retain"]
    kept = dict(zip(retain.contents(), retain.ids.astype(str), strict=True))
    twins = [(str(name), kept[content]) for name, content in zip(forget.ids, forget.contents(), strict=True) if content in kept]
    if twins:
        raise SplitsOverlap(f"{len(twins)} of {len(forget)} records to forget stand with equal content among those that stay "
                            f"({twins[0][0]} = {twins[0][1]}), so they would be taught and forgotten at once. Forget their "
                            "equals, too, or leave them out of one of the two.")


def _texts(rows: Sequence[Mapping[str, Any]], form: Format, name: str) -> Texts:
    """Prompts and answers of all records; an error names the line of one that has none."""
    first = rows[0]
    if form.messages in first and form.prompt not in first:
        if form.template != "chat":
            raise RequestError(f"{place_of(rows, 0, name)} is a conversation (column {form.messages!r}), and template = "
                               f"{form.template!r} writes single prompts, so nothing was read. Set template: chat.")
        _require_columns(rows, (form.messages,), name)
        pairs = [chat.checked(row[form.messages], row.get(form.tools), place_of(rows, i, name)) for i, row in enumerate(rows)]
        return Texts([prompt for prompt, _ in pairs], [answer for _, answer in pairs], plain=False)
    prompted = form.prompt in first or form.text not in first
    wanted = (form.prompt, form.answer) if prompted else (form.text,)
    _require_columns(rows, wanted, name)
    for place, row in enumerate(rows):
        for column in wanted:
            value = row[column]
            if not isinstance(value, (str, int, float)) or (isinstance(value, float) and math.isnan(value)):
                raise DataError(f"{place_of(rows, place, name)} has {str(value)[:40]!r} in column {column!r}, which is no text, "
                                "so nothing could be learnt from it. Write text there, or leave the record out.")
            if column != form.prompt and not str(value).strip():
                raise DataError(f"{place_of(rows, place, name)} has an empty text in column {column!r}, so there is nothing to "
                                "learn or to forget. Write text there, or leave the record out.")
    told = [str(row[wanted[-1]]) for row in rows]
    return Texts([str(row[form.prompt]) for row in rows] if prompted else [""] * len(rows), told, plain=not prompted)


def _require_columns(rows: Sequence[Mapping[str, Any]], wanted: Sequence[str], name: str) -> None:
    for place, row in enumerate(rows):
        for column in wanted:
            if column not in row:
                raise WrongColumn(f"{place_of(rows, place, name)} has no column {column!r}{nearest(column, row)}, so it "
                                  f"has no text. Its columns: {', '.join(row)}. Name yours, one name for all files: the options "
                                  "prompt and answer, or text (of data, in a request).")


def _names(rows: Sequence[Mapping[str, Any]], form: Format, name: str) -> list[str]:
    column = form.id or ("id" if all("id" in row for row in rows) else None)
    if column is None:
        return [f"{name}:{i}" for i in range(len(rows))]
    missing = [i for i, row in enumerate(rows) if column not in row]
    if missing:
        raise WrongColumn(f"{place_of(rows, missing[0], name)} has no column {column!r}, so it has no identifier. Its "
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
