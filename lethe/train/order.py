"""The order of examples, as a pure function of (seed, epoch): a resumed run needs only its step."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from lethe.core.seeds import derive, generator
from lethe.core.split import Split

BUCKET = 32  # batches that are sorted by length together


def batches_per_epoch(split: Split, size: int) -> int:
    """How many batches `Order` makes of a split. 64 examples by 16: 4; 65: 4, the last of 17; 66: 5."""
    full, rest = divmod(len(split), size)
    return max(full + (rest > joins(split, size)), 1)


def joins(split: Split, size: int) -> bool:
    """Whether a last batch of one example goes into the batch before it: batch norm cannot train on one. Not of sequences."""
    return size > 1 and split.lengths is None


class Order:
    """Which examples the k-th draw from a split takes. Every epoch visits every example once, in a new random order;
    sequences are grouped by length within `BUCKET` batches, and the batches are shuffled again."""

    def __init__(self, split: Split, size: int, *seed: object) -> None:
        self.split, self.size = split, min(size, len(split))
        self.count = batches_per_epoch(split, self.size)
        root = derive(0, *seed)

        @lru_cache(maxsize=2)
        def epoch(number: int) -> list[Tensor]:
            rng = generator(root, number)
            order = torch.randperm(len(split), generator=rng)
            if split.lengths is None:
                batches = list(order.split(self.size))
                alone = len(batches) > 1 and len(batches[-1]) == 1 and joins(split, self.size)
                return [*batches[:-2], torch.cat(batches[-2:])] if alone else batches
            parts = [part[torch.argsort(split.lengths[part], stable=True)] for part in order.split(self.size * BUCKET)]
            batches = [batch for part in parts for batch in part.split(self.size)]
            return [batches[i] for i in torch.randperm(len(batches), generator=rng).tolist()]

        self._epoch = epoch

    def draw(self, k: int) -> Tensor:
        """Positions of the k-th batch, k = 0, 1, …"""
        batches = self._epoch(k // self.count)
        return batches[k % len(batches)]
