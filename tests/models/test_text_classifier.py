"""Labelled texts through the classification task: numbers of words, padding, methods without special code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lethe
from lethe.core.modules import evaluating, state_fingerprint
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.data.load import load
from lethe.data.sources.labelled_text import padded, vocabulary, words
from lethe.errors import DataError, WrongColumn
from lethe.models.classification.task import Classification
from lethe.models.zoo import build


def test_words_are_numbered_by_frequency_then_alphabet() -> None:
    assert words("It's GOOD!") == ["it", "'", "s", "good", "!"]
    known = vocabulary(["b a c", "b c", "c"], 4)
    assert known == {"c": 2, "b": 3}, "numbers 2 and 3 are below 4"
    assert padded([[5, 6, 7], [5], []], 2).tolist() == [[5, 6], [5, 0], [0, 0]]


def test_files_with_and_without_header(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('fine film\t1\na "bad one\t0\n')
    (tmp_path / "b.csv").write_text("label,text\n1,unseen film\n2,\n")
    plain = load({"kind": "labelled_text", "path": str(tmp_path / "a.tsv"), "columns": ("text", "label"), "length": 4})["train"]
    assert plain.columns["y"].tolist() == [1, 0] and plain.meta["text"][1] == 'a "bad one'
    assert plain.columns["x"].shape == (2, 4) and plain.ids[0] == "a:0"
    split = load({"kind": "labelled_text", "path": str(tmp_path / "b.csv"), "first": 1})["train"]
    assert split.columns["y"].tolist() == [0, 1]
    with pytest.raises(WrongColumn, match=r"data\.columns"):
        load({"kind": "labelled_text", "path": str(tmp_path / "a.tsv")})
    with pytest.raises(DataError, match="row 1"):
        load({"kind": "labelled_text", "path": str(tmp_path / "a.tsv"), "columns": ("text", "label", "more")})


def test_unseen_words_of_other_parts_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\none two,0\ntwo,1\n")
    (tmp_path / "b.csv").write_text("text,label\nthree two,1\n")
    splits = load({"kind": "labelled_text", "path": str(tmp_path / "a.csv"), "test": str(tmp_path / "b.csv"), "length": 2})
    assert splits["test"].columns["x"].tolist() == [[1, 2]], "two is the most frequent word of train"


def small() -> Classification:
    """Texts of 3 to 6 of 20 words; class 1 when word 5 occurs."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(2, 20, (96, 6), generator=rng)
    for row, length in enumerate(torch.randint(3, 7, (96,), generator=rng).tolist()):
        x[row, length:] = 0
    split = Split({"x": x, "y": (x == 5).any(1).long()}, "train")

    def fresh(seed: int) -> torch.nn.Module:
        return build("text_encoder", vocabulary=20, width=16, layers=1, positions=6)

    torch.manual_seed(0)
    parts = {"forget": split.subset(range(16), "forget"), "retain": split.subset(range(16, 96), "retain")}
    return Classification(fresh(0), parts, Recipe(epochs=2, lr=1e-2, batch_size=16), fresh)


def test_padding_changes_nothing_and_empty_texts_are_answered() -> None:
    model = small().original
    with evaluating(model):
        short = model(torch.tensor([[3, 4, 5]]))
        assert torch.allclose(short, model(torch.tensor([[3, 4, 5, 0, 0]])), atol=1e-6)
        mixed = model(torch.tensor([[3, 4, 5, 0, 0], [0, 0, 0, 0, 0], [6, 7, 8, 9, 10]]))
    assert torch.allclose(mixed[0], short[0], atol=1e-6) and torch.allclose(mixed[1], model.head.bias, atol=1e-6)


@pytest.mark.parametrize("name", ["retrain", "scrub", "ssd", "salun", "delete"])
def test_methods_run_on_texts_without_code_of_their_own(name: str) -> None:
    task = small()
    options = {"ssd": {"alpha": 0.1}, "scrub": {"epochs": 1}, "salun": {"epochs": 1}, "delete": {"epochs": 1}}.get(name, {})
    outcome = lethe.forget(task, name, progress=False, watchdog=False, **options)
    assert state_fingerprint(outcome.model) != state_fingerprint(task.original)
    assert task.features(outcome.model, task.forget.batch([0, 1])).shape == (2, 16)


def test_the_tokenizer_of_an_encoder_is_used(tmp_path: Path) -> None:
    from lethe.models.lm.small import train_tokenizer

    tokenizer = train_tokenizer(["one two three"], 300)
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.csv").write_text("text,label\none two,0\nthree,1\n")
    split = load({"kind": "labelled_text", "path": str(tmp_path / "a.csv"), "length": 6, "padding": 9,
                  "tokenizer": str(tmp_path / "tokenizer.json")})["train"]
    ids = tokenizer("one two", add_special_tokens=False)["input_ids"]
    assert split.columns["x"][0].tolist() == [*ids, *[9] * (6 - len(ids))]
