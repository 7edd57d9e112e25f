"""Sweeps over sequences: every example once, little padding, the same values."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lethe.core.split import Batch, Split, cuts
from lethe.train.table import fill


def sequences(lengths: list[int]) -> Split:
    """Sequence i holds the number i + 1, `lengths[i]` times."""
    width = max(lengths)
    ids = torch.stack([torch.full((width,), i + 1) * (torch.arange(width) < n) for i, n in enumerate(lengths)])
    return Split({"ids": ids, "length": torch.tensor(lengths)}, padding={"ids": 0})


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 8))
def test_sweep_visits_every_example_once_with_little_padding(lengths: list[int], size: int) -> None:
    split = sequences(lengths)
    batches = list(split.sweep(size))
    assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= size and batch.ids.shape[1] <= 1.25 * int(batch.length.min())


def test_cuts_golden() -> None:
    """The first three fill a batch; 6 is within 5·1.25 = 6.25, 8 is not."""
    assert cuts([4, 4, 5, 5, 6, 8], 3) == [3, 2, 1]


def test_other_data_is_swept_as_before() -> None:
    split = Split({"x": torch.arange(5)})
    assert [batch.x.tolist() for batch in split.sweep(2)] == [[0, 1], [2, 3], [4]]


def test_table_does_not_depend_on_batches_and_its_limit_counts_the_longest() -> None:
    def ask(batch: Batch) -> torch.Tensor:
        return batch.ids.float()

    split = sequences([2, 9, 3, 9, 30])
    tables = [fill(ask, lambda batch: batch, split, size, 1.0) for size in (1, 2, 256)]
    for table in tables:
        assert torch.equal(table, split.columns["ids"].float())   # type: ignore[arg-type]
    limit = 5 * 20 * 4 / 1e6    # five rows of 20 floats: enough for all but the longest
    assert isinstance(fill(ask, lambda batch: batch, split, 2, limit), str)
