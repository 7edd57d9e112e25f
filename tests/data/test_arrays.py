"""Data in memory as splits, whatever they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lethe.core.split import Split
from lethe.data.arrays import as_split
from lethe.errors import DataError, EmptySplit, WrongColumn

X, Y = torch.arange(12.0).view(4, 3), torch.tensor([0, 1, 2, 1])


class Items(Dataset):
    """A data set that gives what `item` makes of a position."""

    def __init__(self, item: Any, n: int = 4) -> None:
        self.item, self.n = item, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        return self.item(i)


FORMS: dict[str, Any] = {
    "tensors": (X, Y),
    "arrays": (X.numpy().astype(np.float64), Y.numpy().astype(np.int32)),
    "lists": (X.tolist(), Y.tolist()),
    "mapping": {"x": X, "y": Y.numpy()},
    "tensor data set": TensorDataset(X, Y),
    "items of pairs": Items(lambda i: (X[i], int(Y[i]))),
    "items of arrays": Items(lambda i: (X[i].numpy(), np.int64(Y[i]))),
    "items of mappings": Items(lambda i: {"x": X[i], "y": int(Y[i])}),
    "gradient": (X.clone().requires_grad_(), Y.to(torch.uint8)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_split(form: str) -> None:
    split = as_split(FORMS[form], "train")
    assert split.fingerprint == Split({"x": X, "y": Y}, "train").fingerprint
    assert not split.columns["x"].requires_grad


def test_further_columns_are_kept_for_selection() -> None:
    split = as_split({"image": X, "label": Y, "ids": [7, 8, 9, 10], "who": ["a", "b", "c", "d"]}, "train", "image", "label")
    assert split.ids.tolist() == ["7", "8", "9", "10"] and split.column("who") == ["a", "b", "c", "d"]
    with pytest.raises(WrongColumn, match=r"no column 'y'.*name them with x= and y="):
        as_split({"x": X, "label": Y})


def test_a_split_keeps_its_ids_under_another_name() -> None:
    split = as_split(Split({"x": X, "y": Y}, "train"), "holdout")
    assert split.name == "holdout" and split.ids[0] == "train:0"


def test_bytes_stay_bytes_and_targets_stay_numbers() -> None:
    split = as_split((np.zeros((2, 3, 4, 4), dtype=np.uint8), np.array([0.5, 1.0])))
    assert split.columns["x"].dtype == torch.uint8 and split.columns["y"].dtype == torch.float32


def test_pil_items_become_bytes_and_mixed_sizes_are_refused() -> None:
    split = as_split(Items(lambda i: (Image.new("RGB", (4, 3), (i, 0, 9)), i)))
    assert split.columns["x"].shape == (4, 3, 3, 4) and split.columns["x"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"image 1 of train is \(3, 5\)"):
        as_split(Items(lambda i: (Image.new("L", (4 + i, 3)), i)))


def test_what_cannot_be_named_or_read_is_refused() -> None:
    with pytest.raises(DataError, match=r"order may change.*loader\.dataset"):
        as_split(DataLoader(TensorDataset(X, Y)))
    with pytest.raises(DataError, match="is a generator"):
        as_split(x for x in [1])
    with pytest.raises(DataError, match="cannot be identified"):
        as_split(Items(lambda i: X[i]))
    with pytest.raises(DataError, match=r"different shapes, such as \(1,\) and \(2,\)"):
        as_split(Items(lambda i: (torch.zeros(i + 1), 0)))
    with pytest.raises(EmptySplit, match="train set is empty"):
        as_split(Items(lambda i: (X[i], 0), 0))
    with pytest.raises(DataError, match="lengths"):
        as_split((X, Y[:2]))


def test_a_random_transform_is_found_out() -> None:
    with pytest.raises(DataError, match="example 0 of train is different each time"):
        as_split(Items(lambda i: (X[i] + torch.rand(3), int(Y[i]))))


def test_read_only_arrays_are_copied() -> None:
    x = np.zeros((2, 3), dtype=np.float32)
    x.flags.writeable = False
    as_split((x, [0, 1])).columns["x"].add_(1)
    assert not x.any()


# -- contents: what tells equal examples -------------------------------------------------------------------------------


def sequences(rows: list[list[int]], width: int) -> Split:
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return Split({"tokens": tokens, "length": torch.tensor([len(row) for row in rows])}, padding={"tokens": 0})


def slow_contents(split: Split) -> list[tuple[Any, ...]]:
    """The reference: whole examples as tuples."""
    def row(value: Tensor, key: str, i: int) -> Any:
        return tuple(value[i][: int(split.columns["length"][i])].tolist()) if key in split.padding else value[i].tolist()

    return [tuple(str(row(value, key, i)) for key, value in sorted(split.columns.items())) for i in range(len(split))]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), max_size=3), min_size=1, max_size=8), st.integers(3, 6))
def test_contents_tell_exactly_the_equal_examples(rows: list[list[int]], width: int) -> None:
    split = sequences(rows, width)
    fast, slow = split.contents(), slow_contents(split)
    assert [[a == b for b in fast] for a in fast] == [[a == b for b in slow] for a in slow]
    assert sequences(rows, width + 2).contents() == fast   # padding does not count


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float32, torch.bfloat16])
def test_contents_of_every_type_and_of_nothing(dtype: torch.dtype) -> None:
    split = Split({"x": torch.tensor([[0, 1], [1, 1], [0, 1]]).to(dtype), "y": torch.tensor([1, 1, 1])})
    first, second, third = split.contents()
    assert first == third != second
    assert split.subset([], "empty").contents() == []
    assert len(set(Split({"x": torch.zeros(3, 0), "y": torch.arange(3)}).contents())) == 3
