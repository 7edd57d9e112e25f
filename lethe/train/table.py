"""What a frozen model says about every example of a split, kept as one tensor and looked up by position."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lethe.core.split import Batch, Split

Ask = Callable[[Batch], Tensor]


def fill(ask: Ask, prepare: Callable[[Batch], Batch], split: Split, batch_size: int, limit_mb: float) -> Tensor | str | None:
    """[n, …] on the CPU. None when examples hold random draws, which cannot be looked up; a text when it is too large."""
    rows: Tensor | None = None
    for batch in split.sweep(batch_size):
        ready = prepare(batch)
        if ready.drawn:
            return None
        said = ask(ready).cpu()
        if said.numel() / len(batch) * len(split) * said.element_size() > limit_mb * 1e6:   # longer ones come later
            return (f"what the original says about {split.name} is larger than cache_mb={limit_mb:g}; it is asked at "
                    "every step")
        if rows is None:
            rows = said.new_zeros((len(split), *said.shape[1:]))
        if said.dim() > 1 and said.shape[1] > rows.shape[1]:   # sequences come sorted by length
            rows = torch.cat([rows, rows.new_zeros((len(rows), said.shape[1] - rows.shape[1], *rows.shape[2:]))], 1)
        if said.dim() > 1:
            rows[batch.index, : said.shape[1]] = said
        else:
            rows[batch.index] = said
    return rows


def shorter(ask: Ask, prepare: Callable[[Batch], Batch], split: Split) -> int | None:
    """By how much answers are shorter than their sequences; None when their width does not follow the sequence."""
    if split.lengths is None:
        return None
    ends = [split.batch([int(split.lengths.argmin())]), split.batch([int(split.lengths.argmax())])]
    widths = [said.shape[1] if said.dim() > 1 else 0 for said in (ask(prepare(batch)) for batch in ends)]
    return None if widths[0] == widths[1] else int(split.lengths.min()) - widths[0]


def look_up(rows: Tensor, batch: Batch, split: Split, less: int | None) -> Tensor:
    """The rows of a batch, as wide as the model's answers about this batch are (`less`: see `shorter`)."""
    found = rows[batch.index.to(rows.device)]
    return found if less is None else found[:, : batch.columns[next(iter(split.padding))].shape[1] - less]
