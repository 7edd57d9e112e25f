"""Selections: what is meant is taken, nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lethe.core.split import Split
from lethe.data.select import divide, where
from lethe.errors import DataError, EmptySplit, RequestError, WrongColumn

SPLIT = Split(
    {"x": torch.zeros(6, 2), "y": torch.tensor([0, 1, 2, 0, 1, 2])}, "train", np.array(list("abcdef")),
    {"age": np.array([10, 20, 30, 40, 50, 60]), "class": ["cat", "dog", "cow"] * 2, "text": ["a b", "b", "c", "A", "ab", "b c"],
     "author": ["Ann", "Bob", "Ann", "Eve", "Eve", "Ann"]},
)


def taken(**conditions: object) -> str:
    return "".join(SPLIT.ids[where(**conditions).mask(SPLIT)])


def test_every_kind_of_condition() -> None:
    assert taken(label=1) == "be" and taken(label=(0, 2)) == "acdf"
    assert taken(label="dog") == "be" and taken(label=("cat", 1)) == "abde"
    assert taken(index=(0, 5)) == "af" and taken(ids=("c", "a")) == "ac"
    assert taken(entity="Eve") == "de" and taken(entity=("Bob", "Eve")) == "bde"
    assert taken(text="^b") == "bf" and taken(column={"author": "Ann", "age": 30}) == "c"
    assert taken(query="age >= 30 and author == 'Ann'") == "cf" and taken(query="class != cat") == "bcef"
    assert taken(label=1, query="age < 30") == "b"


def test_a_share_is_a_seeded_part_of_what_matches() -> None:
    assert len(taken(fraction=0.5)) == 3 and taken(fraction=0.5) == taken(fraction=0.5)
    assert set(taken(label=0, count=1)) < set("ad")
    assert len({taken(fraction=0.5, seed=s) for s in range(10)}) > 1


def test_parts_are_disjoint_and_complete_and_carry_everything() -> None:
    forget, retain = divide(SPLIT, {"label": 1})
    assert list(forget.ids) == ["b", "e"] and list(retain.ids) == ["a", "c", "d", "f"]
    assert list(forget.meta["age"]) == [20, 50] and forget.meta["author"] == ["Bob", "Eve"]
    assert [list(part.ids) for part in divide(SPLIT, [4, 1])] == [list(forget.ids), list(retain.ids)]
    with pytest.raises(EmptySplit, match="Check the selection: query: age > 90"):
        divide(SPLIT, {"query": "age > 90"})
    assert [list(part.ids) for part in divide(SPLIT, SPLIT.columns["y"].numpy() == 1)] == [list(forget.ids), list(retain.ids)]


def test_a_column_class_that_does_not_name_the_labels_is_not_used_as_such() -> None:
    other = Split(SPLIT.columns, meta={"class": ["first", "second"] * 3})
    with pytest.raises(DataError, match="'first' belongs to several label numbers"):
        where(label="first").mask(other)


def test_a_table_column_named_y_does_not_hide_the_labels() -> None:
    other = Split(SPLIT.columns, meta={"y": ["p", "q"] * 3})
    assert where(label=1).mask(other).tolist() == [False, True, False, False, True, False]


def test_a_number_is_compared_with_a_number() -> None:
    with pytest.raises(RequestError, match="numeric column 'age' with 'old'"):
        where(query="age > old").mask(SPLIT)


def test_a_query_knows_missing_values_dates_and_columns_that_cannot_be_compared() -> None:
    since = np.array(["2026-01-01", "2026-02-01", "2026-03-01"], dtype="datetime64[D]")
    split = Split({"y": torch.eye(3, dtype=torch.int64)}, meta={
        "job": ["cook", None, "smith"], "age": [30, None, 5], "since": since, "wave": np.array([1j, 2, 3]),
        "tags": [["a"], [], ["b", "c"]]})
    assert where(query="job > d and job != cook").mask(split).tolist() == [False, False, True]
    assert where(query="job != cook").mask(split).tolist() == [False, True, True]
    assert where(query="age > 20").mask(split).tolist() == [True, False, False]
    assert where(column={"age": [5, 30], "job": "cook"}).mask(split).tolist() == [True, False, False]
    assert where(query="since >= 2026-02-01").mask(split).tolist() == [False, True, True]
    with pytest.raises(RequestError, match="column of dates 'since' with 'old'; provide a date"):
        where(query="since > old").mask(split)
    with pytest.raises(RequestError, match="'wave', which holds complex128"):
        where(query="wave > 1").mask(split)
    with pytest.raises(WrongColumn, match="'tags' of train has lists"):
        where(query="tags == a").mask(split)
    with pytest.raises(WrongColumn, match=r"'y' of train has shape \(3, 3\).*forget.ids"):   # several labels per example
        where(label=1).mask(split)


def test_wrong_labels_are_planted_and_selected() -> None:
    from lethe.data.load import load

    train = load({"kind": "digits", "holdout": 0.2, "poison": {"kind": "labels", "count": 30}})["train"]
    wrong = train.columns["y"].numpy() != train.meta["true_label"]
    assert wrong.sum() == 30 and (wrong == train.meta["manipulated"]).all()
    assert (where(poisoned=1.0).mask(train) == wrong).all() and len(set(train.columns["y"][wrong].tolist())) > 5
