"""Labelled texts: a .csv or .tsv file (also .gz) with a column of text and one of labels, turned into token numbers.

Words are numbered by how often the training part has them (1 is an unknown word, 0 is padding); or the tokenizer of a
pre-trained encoder is used. The text stays in the column `text`, so that `forget: {text: Scorsese}` can search it.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lethe.core.config import Count, Natural, config
from lethe.core.extras import needs_extra
from lethe.core.split import Split
from lethe.core.user_files import lines_of
from lethe.data import encode as encoding
from lethe.data.context import Context
from lethe.data.paths import existing, located
from lethe.errors import DataError, EmptySplit, WrongColumn, nearest

UNKNOWN = 1   # number of words that the training part does not have; 0 fills up


@config(name="data")
class LabelledText:
    """Inputs [n, length] token numbers; parts as the files given: path (train), and `holdout: PATH`, `test: PATH`."""

    path: str                              # .csv or .tsv, also .gz
    columns: tuple[str, ...] = ()          # names of the columns where the file has no header line
    text: str = "text"                     # column of the text
    label: str = "label"                   # column of the label
    classes: tuple[str, ...] = ()          # order of the class numbers for text labels; empty: sorted labels of train
    first: int = 0                         # the class number that the smallest label of the file has, when labels are numbers
    vocabulary: Count = 4000               # number of distinguished words
    length: Count = 48                     # tokens; the end of longer texts is cut off
    tokenizer: str = ""                    # tokenizer.json of a pre-trained encoder; empty: words of the training part
    padding: Natural = 0                   # the number that fills up short texts: the encoder's own


def read(cfg: LabelledText, context: Context, name: str) -> dict[str, Split]:
    path = located(context, cfg.path)
    tabs = ".tsv" in path.suffixes
    reader = csv.reader(io.StringIO(lines_of(path, "data.path"), newline=""), delimiter="\t" if tabs else ",",
                        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL)
    try:
        lines = [row for row in reader if row]
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} of {path} cannot be read as a table ({error}), so there are no texts. Correct "
                        "its quotes and separators.") from None
    header = list(cfg.columns) if cfg.columns else lines[0] if lines else []
    body = lines if cfg.columns else lines[1:]
    if not body:
        raise EmptySplit(f"{path} holds no texts, so there is nothing to work on. Provide a file with rows.")
    for option in (cfg.text, cfg.label):
        if option not in header:
            raise WrongColumn(f"{path.name} has no column {option!r}{nearest(option, header)}, so nothing was read. Columns: "
                              f"{', '.join(header)}; name yours with data.text, data.label, or data.columns when the file has no "
                              "header.")
    wrong = next((number for number, row in enumerate(body, 1) if len(row) != len(header)), None)
    if wrong is not None:
        raise DataError(f"row {wrong} of {path.name} has {len(body[wrong - 1])} values for {len(header)} columns, so they cannot "
                        "be assigned. Correct the row, or data.columns.")
    columns: dict[str, Any] = {key: list(values) for key, values in zip(header, zip(*body, strict=True), strict=True)}
    if cfg.label in columns and all(re.fullmatch(r"\d+", value) for value in columns[cfg.label]):
        columns[cfg.label] = np.array([int(value) - cfg.first for value in columns[cfg.label]])
    return {name: encoding.rows(columns, name, np.array([f"{path.name.split('.')[0]}:{i}" for i in range(len(body))]))}


def encode(cfg: LabelledText, splits: dict[str, Split]) -> dict[str, Split]:
    splits = encoding.targets(splits, cfg.label, "class", cfg.classes)
    texts = {part: [str(text) for text in split.meta[cfg.text]] for part, split in splits.items()}
    if cfg.tokenizer:
        numbered = {part: _by_tokenizer(Path(cfg.tokenizer), some) for part, some in texts.items()}
    else:
        known = vocabulary(texts["train"], cfg.vocabulary)
        numbered = {part: [[known.get(word, UNKNOWN) for word in words(text)] for text in some] for part, some in texts.items()}
    return {part: encoding.with_column(split, "x", padded(numbered[part], cfg.length, cfg.padding))
            for part, split in splits.items()}


def words(text: str) -> list[str]:
    """Lower-case words and single signs."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def vocabulary(texts: Sequence[str], size: int) -> dict[str, int]:
    """Word -> number from 2 on, the most frequent first (ties by alphabet), so that the largest number is below `size`."""
    counts = Counter(word for text in texts for word in words(text))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[: max(size - 2, 0)]
    return {word: number for number, word in enumerate(ranked, UNKNOWN + 1)}


def padded(rows: Sequence[Sequence[int]], length: int, fill: int = 0) -> torch.Tensor:
    """[n, length] int64, cut or filled up."""
    return torch.tensor([[*row[:length], *[fill] * (length - len(row))] for row in rows], dtype=torch.long)


def _by_tokenizer(path: Path, texts: list[str]) -> list[list[int]]:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise needs_extra("lm", "data.tokenizer", "tokenizers", "nothing was read") from None
    made: Any = Tokenizer.from_file(str(existing(path, "data.tokenizer")))
    made.no_padding()
    made.no_truncation()
    return [list(found.ids) for found in made.encode_batch(texts)]
