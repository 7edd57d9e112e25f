"""A frozen model's answers for every example of a split, kept as one tensor and looked up by position."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lethe.core.passes import Rows
from lethe.core.split import Batch, Split

Ask = Callable[[Batch], Tensor]


def fill(ask: Ask, prepare: Callable[[Batch], Batch], split: Split, batch_size: int, limit_mb: float) -> Tensor | str | None:
    """[n, …] on the CPU. None when examples hold random draws, which cannot be looked up; a text when it is too large."""
    rows = Rows(len(split))
    for batch in split.sweep(batch_size):
        ready = prepare(batch)
        if ready.drawn:
            return None
        answers = ask(ready).cpu()
        if answers.numel() / len(batch) * len(split) * answers.element_size() > limit_mb * 1e6:   # longer ones come later
            return (f"the table of the original's answers for {split.name} is larger than cache_mb={limit_mb:g}; the original "
                    "is called at every step")
        rows.put(batch.index, answers)
    return rows.found


def shorter(ask: Ask, prepare: Callable[[Batch], Batch], split: Split) -> int | None:
    """By how much the rows are shorter than the sequences: 0 for hidden states, 1 for next-token predictions.

    None when their width follows something else, such as the longest answer of a batch: then they stay as wide as the widest.
    """
    if split.lengths is None:
        return None
    ends = [split.batch([int(split.lengths.argmin())]), split.batch([int(split.lengths.argmax())])]
    answers = [ask(prepare(batch)) for batch in ends]
    widths = [one.shape[1] if one.dim() > 1 else 0 for one in answers]
    less = int(split.lengths.min()) - widths[0]
    return less if less in (0, 1) and less == int(split.lengths.max()) - widths[1] else None


def look_up(rows: Tensor, batch: Batch, split: Split, less: int | None) -> Tensor:
    """The rows of a batch, as wide as its sequences less `less` (see `shorter`), else as wide as the widest of the split."""
    found = rows[batch.index.to(rows.device)]
    return found if less is None else found[:, : batch.columns[next(iter(split.padding))].shape[1] - less]
