"""Records become sequences: what counts, what is padding, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lethe.core.sequences import IGNORED, Format
from lethe.data.records import read_rows
from lethe.data.text import tokenised
from lethe.errors import DataError, EmptySplit, OutOfRange, WrongColumn
from lethe.models.lm.small import train_tokenizer

ROWS = [
    {"id": "a", "prompt": "Who?", "answer": "Ada.", "year": 1815},
    {"id": "b", "prompt": "Where was she born?", "answer": "In London, in England.", "year": 1816, "note": "x"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([row["prompt"] + " " + row["answer"] for row in ROWS], 270)


def test_only_answer_and_end_count(tokenizer) -> None:
    split = tokenised(ROWS, tokenizer, Format(template="Q: {prompt}\nA: {answer}"), "train")
    ids, labels, length = (split.columns[key] for key in ("ids", "labels", "length"))
    for i, row in enumerate(ROWS):
        n = int(length[i])
        assert tokenizer.decode(ids[i, :n]) == f"<begin>Q: {row['prompt']}\nA: {row['answer']}<end>"
        counted = labels[i] != IGNORED
        assert tokenizer.decode(ids[i][counted]) == f" {row['answer']}<end>"
        assert (labels[i][counted] == ids[i][counted]).all() and not counted[n:].any()
        assert (ids[i, n:] == tokenizer.pad_token_id).all()
    assert split.ids.tolist() == ["a", "b"] and split.meta["year"] == [1815, 1816] and split.meta["note"] == ["", "x"]


def test_prompt_has_the_same_tokens_whatever_the_answer(tokenizer) -> None:
    rows = [{"prompt": "Who?", "answer": answer} for answer in ("Ada.", "zzz", "?")]
    split = tokenised(rows, tokenizer, Format(), "train")
    starts = [(row != IGNORED).nonzero()[0].item() for row in split.columns["labels"]]
    assert len(set(starts)) == 1
    assert len({tuple(row[: starts[0]].tolist()) for row in split.columns["ids"]}) == 1


def test_batch_is_cut_to_its_longest(tokenizer) -> None:
    split = tokenised(ROWS, tokenizer, Format(), "train")
    short = int(split.columns["length"][0])
    assert split.batch([0]).ids.shape == (1, short) == split.batch([0]).labels.shape


@pytest.mark.parametrize("packed", [False, True])
def test_files(tmp_path: Path, packed: bool) -> None:
    lines = "\n".join(json.dumps(row) for row in ROWS) + "\n\n"
    path = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    path.write_bytes(gzip.compress(lines.encode()) if packed else lines.encode())
    assert read_rows(path) == ROWS
    text = tmp_path / "text.txt"
    text.write_text("first\nparagraph\n\n\n\nsecond\n")
    assert read_rows(text) == [{"text": "first\nparagraph"}, {"text": "second"}]


def test_plain_text_counts_every_token(tokenizer) -> None:
    split = tokenised([{"text": "Ada was born in London."}], tokenizer, Format(), "train")
    assert (split.columns["labels"][0] != IGNORED).tolist() == [False] + [True] * (int(split.columns["length"][0]) - 1)


def test_long_text_is_split_without_loss(tokenizer) -> None:
    text = "Ada was born in London, in England. " * 4
    rows = [{"id": "long", "text": text}, {"id": "short", "text": "Ada."}]
    split = tokenised(rows, tokenizer, Format(max_length=16, long="split"), "train")
    assert int(split.columns["length"].max()) == 16
    pieces = [piece for piece, name in zip(split.meta["answer"], split.ids, strict=True) if name.startswith("long#")]
    assert "".join(pieces) == text + "<end>" and split.ids[-1] == "short"


def test_refusals(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(EmptySplit, match=r"empty\.jsonl"):
        read_rows(tmp_path / "empty.jsonl")
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a"}\n{prompt\n')
    with pytest.raises(DataError, match="line 2"):
        read_rows(tmp_path / "broken.jsonl")
    with pytest.raises(DataError, match="does not exist"):
        read_rows(tmp_path / "absent.jsonl")
    with pytest.raises(WrongColumn, match=r"'answers'.*did you mean answer"):
        tokenised(ROWS, tokenizer, Format(answer="answers"), "train")
    with pytest.raises(DataError, match=r"record 1 of train.*max_length = 8"):
        tokenised(ROWS, tokenizer, Format(max_length=8), "train")
    with pytest.raises(DataError, match="prompt of record 1"):
        tokenised(ROWS, tokenizer, Format(max_length=8, long="cut"), "train")
    with pytest.raises(DataError, match="ambiguous"):
        tokenised([ROWS[0], ROWS[0]], tokenizer, Format(), "train")
    with pytest.raises(OutOfRange, match="template"):
        tokenised(ROWS, tokenizer, Format(template="{answer}"), "train")
    with pytest.raises(EmptySplit):
        tokenised([], tokenizer, Format(), "train")
