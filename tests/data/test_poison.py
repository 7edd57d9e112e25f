"""Manipulated data by hand: what is marked, what the triggers do to pixels, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lethe.core.split import Split
from lethe.data.load import load
from lethe.data.poison import Poison, patched, poisoned, trigger, warp_field, warped
from lethe.data.select import divide, where
from lethe.errors import DataError, LabelOutOfRange, LetheError, RequestError, WrongColumn


def splits(n: int = 40, dtype: torch.dtype = torch.float32, side: int = 6) -> dict[str, Split]:
    """Four classes, ten of each in train and in test; random pictures."""
    rng = torch.Generator().manual_seed(0)

    def part(name: str) -> Split:
        x = torch.rand(n, 1, side, side, generator=rng)
        return Split({"x": x if dtype == torch.float32 else (255 * x).to(dtype), "y": torch.arange(n) % 4}, name)

    return {"train": part("train"), "test": part("test")}


@pytest.mark.parametrize("kind", ["patch", "blend", "warp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_trigger_comes_with_its_label_and_is_marked(kind: str, dtype: torch.dtype) -> None:
    clean = splits(dtype=dtype)
    made = poisoned(clean, Poison(kind=kind, count=12, target=2, size=2))
    train, marked = made["train"], made["train"].meta["manipulated"]
    assert marked.sum() == 12 and (train.columns["y"][marked] == 2).all() and train.columns["x"].dtype == dtype
    assert (clean["train"].columns["y"][marked] != 2).all(), "only examples of other classes are manipulated"
    assert torch.equal(train.columns["x"][~marked], clean["train"].columns["x"][~marked])
    assert (train.columns["x"][marked] != clean["train"].columns["x"][marked]).flatten(1).any(1).all()
    assert torch.equal(made["test"].columns["x"], clean["test"].columns["x"]), "clean test data stay"
    affected = made["affected"]
    assert len(affected) == 30 and (affected.columns["y"] != 2).all() and set(affected.meta["taught"]) == {2}


def test_pixels_by_hand() -> None:
    assert patched(torch.zeros(1, 1, 3, 3), 2, 5.0)[0, 0].tolist() == [[0, 0, 0], [0, 5, 5], [0, 5, 5]]
    # a field of one pixel to the right reads the right neighbour, and the border's value beyond the border
    right = torch.zeros(3, 3, 2)
    right[..., 0] = 1
    torch.testing.assert_close(warped(torch.arange(9.0).view(1, 1, 3, 3), right)[0, 0],
                               torch.tensor([[1.0, 2, 2], [4, 5, 5], [7, 8, 8]]))
    assert torch.equal(warped(torch.arange(9.0).view(1, 1, 3, 3), torch.zeros(3, 3, 2)).flatten(), torch.arange(9.0))
    field = warp_field(9, 9, 9, 0.5, torch.Generator().manual_seed(0))   # as many points as pixels: no smoothing
    assert float(field.abs().mean()) == pytest.approx(0.5, rel=1e-4)
    image = torch.rand(1, 1, 4, 4)
    assert torch.equal(trigger(Poison(kind="blend", alpha=0.0), image)(image), image)


def test_confusion_exchanges_labels_of_both_classes_and_nothing_else() -> None:
    clean = splits()
    made = poisoned(clean, Poison(kind="confusion", classes=(1, 3), count=7))
    before, after, marked = clean["train"].columns["y"], made["train"].columns["y"], made["train"].meta["manipulated"]
    assert torch.equal(made["train"].columns["x"], clean["train"].columns["x"]) and torch.equal(after[~marked], before[~marked])
    changes = list(zip(before[marked].tolist(), after[marked].tolist(), strict=True))
    assert changes.count((1, 3)) == 4 and changes.count((3, 1)) == 3 and len(changes) == 7
    true, taught = made["affected"].columns["y"].tolist(), made["affected"].meta["taught"].tolist()
    assert set(zip(true, taught, strict=True)) == {(1, 3), (3, 1)} and len(true) == 20


def test_a_part_is_identified_and_larger_parts_contain_smaller_ones() -> None:
    train = poisoned(splits(), Poison(count=20, size=2))["train"]
    few, half, every = (divide(train, where(poisoned=share))[0] for share in (0.01, 0.5, 1.0))
    assert len(few) == 1 and len(half) == 10 and len(every) == 20 and np.asarray(every.meta["manipulated"]).all()
    assert set(few.ids) <= set(half.ids) <= set(every.ids)
    assert np.asarray(divide(train, where(poisoned=0.5))[1].meta["manipulated"]).sum() == 10, "the rest stays in retain"
    with pytest.raises(WrongColumn, match=r"forget\.poisoned"):
        divide(splits()["train"], where(poisoned=0.5))


BAD: list[tuple[dict[str, Any], type[LetheError], str]] = [
    ({"size": 7}, DataError, "7 exceeds the images of 6 × 6"),
    ({"target": 9}, LabelOutOfRange, "class 9, which no training example has.*Classes: 0, 1, 2, 3"),
    ({"kind": "confusion", "classes": (1, 9)}, LabelOutOfRange, "class 9"),
    ({"kind": "confusion", "classes": (1,)}, RequestError, "two classes"),
    ({"kind": "confusion", "classes": (1, 1)}, RequestError, "two classes"),
    ({"kind": "confusion", "classes": (1, 2), "count": 30}, DataError, "15 training examples of class 1, and there are 10"),
    ({"count": 31}, DataError, "31 training examples with another label than the target, and there are 30"),
]


@pytest.mark.parametrize(("options", "error", "words"), BAD)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], error: type[LetheError], words: str) -> None:
    with pytest.raises(error, match=words):
        poisoned(splits(), Poison(**{"count": 4, **options}))


def test_tables_have_no_corner_and_something_unseen_is_needed() -> None:
    rows = {name: Split({"x": torch.rand(8, 3), "y": torch.arange(8) % 2}, name) for name in ("train", "test")}
    with pytest.raises(DataError, match=r"images \[n, C, H, W\], but the inputs are \[8, 3\]"):
        poisoned(rows, Poison(count=2))
    with pytest.raises(RequestError, match="neither test nor holdout"):
        poisoned({"train": rows["train"]}, Poison(count=2))


def test_a_request_reads_it() -> None:
    made = load({"kind": "digits", "test": 0.2, "poison": {"kind": "patch", "size": 2, "count": 50}})
    assert made["train"].meta["manipulated"].sum() == 50 and len(made["affected"]) > 300
    with pytest.raises(LetheError, match="poison"):
        load({"kind": "digits", "test": 0.2, "poison": {"kind": "glitter"}})
