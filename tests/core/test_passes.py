"""Passes over a split: every example once, with draws of its own, results in the split's order."""

from __future__ import annotations

import re
from pathlib import Path

import tiny
import torch

from lethe.core.passes import Rows, columns, drawn, plain, rows
from lethe.core.seeds import generator


def test_results_stand_in_the_order_of_the_split_whatever_the_batches():
    split = tiny.lm().forget   # batches are sorted by length
    for sweep in (False, True):
        found = rows(lambda batch: batch.length, drawn(tiny.lm(), split, 3, ("test",), sweep=sweep), len(split))
        assert torch.equal(found, split.columns["length"])


def test_sequences_are_padded_with_zeros_to_the_longest():
    found = Rows(3)
    found.put(torch.tensor([2]), torch.ones(1, 1, 2))
    found.put(torch.tensor([0, 1]), torch.full((2, 3, 2), 2.0))
    assert found.whole().shape == (3, 3, 2)
    assert found.whole()[2].tolist() == [[1, 1], [0, 0], [0, 0]] and bool((found.whole()[:2] == 2).all())


def test_draws_are_a_function_of_seed_purpose_and_number():
    task = tiny.diffusion()
    batches = list(drawn(task, task.forget, 5, ("test", "x"), seed=3))
    plain = list(task.forget.batches(5))
    for number, (batch, bare) in enumerate(zip(batches, plain, strict=True)):
        assert torch.equal(batch.noise, task.draw(bare, generator(3, "test", "x", number), False).noise)


def test_several_results_at_once_equal_one_at_a_time():
    task = tiny.classification()
    both = columns(lambda b: {"x": b.x, "y": b.y}, drawn(task, task.retain, 32, ("test",)), len(task.retain))
    assert torch.equal(both["x"], task.retain.columns["x"]) and torch.equal(both["y"], task.retain.columns["y"])


def test_examples_without_draws_come_as_they_are_stored():
    task = tiny.diffusion()
    batches = list(plain(task.forget, 5))
    assert all(set(batch.columns) == set(task.forget.columns) and not batch.drawn for batch in batches)
    assert torch.equal(torch.cat([batch.index for batch in batches]), torch.arange(len(task.forget)))


# where a split is walked otherwise, and why
WALKS = {
    "core/split.py": "the two ways to cut a split",
    "core/passes.py": "the passes themselves",
    "train/table.py": "stops at the first batch that a table cannot keep",
}


def test_no_file_walks_over_a_split_by_hand():
    house = Path(__file__).resolve().parents[2] / "lethe"
    walking = {path.relative_to(house).as_posix() for path in house.rglob("*.py")
               if re.search(r"\.(batches|sweep)\(", path.read_text())}
    assert walking == set(WALKS), "use lethe.core.passes: plain, drawn, rows, columns"
