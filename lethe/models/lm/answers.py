"""Where the answers of a batch of sequences are: positions that predict them, their tokens, how many, values per token."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lethe.core.sequences import IGNORED
from lethe.core.split import Batch
from lethe.maths.answers import counted


def predicting(batch: Batch) -> Tensor:
    """[n, T] positions whose next token is an answer token."""
    return F.pad(batch.labels[:, 1:] != IGNORED, (0, 1), value=False)


def targets(batch: Batch, keep: Tensor) -> Tensor:
    """The answer tokens that are predicted where `keep` is true, in row order.  -> [K]"""
    return batch.labels[:, 1:][keep[:, :-1]]


def answer_lengths(batch: Batch) -> Tensor:
    """[n] number of predicted answer tokens, at least 1."""
    return predicting(batch).sum(1).clamp(min=1)


def answer_mask(batch: Batch) -> Tensor:
    """[n, A] which entries of per-token values belong to an answer; A is the longest answer of the batch."""
    count = predicting(batch).sum(1)
    return counted(count, int(count.max()))


def padded(values: Tensor, mask: Tensor) -> Tensor:
    """[K] values in row order -> [n, A], zeros where `mask` is false."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
