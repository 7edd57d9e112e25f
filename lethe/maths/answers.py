"""Values per token of answers of different lengths, in rows: which of them count, their mean, the tokens themselves."""

from __future__ import annotations

import torch
from torch import Tensor


def counted(lengths: Tensor, width: int) -> Tensor:
    """Which places of a row belong to its answer.  [n] -> [n, width] bool

    counted([1, 3], 3) == [[True, False, False], [True, True, True]].
    """
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)


def after_the_first(lengths: Tensor, width: int) -> Tensor:
    """The same without the first place, which every text begins with, where another is left.  [n] -> [n, width] bool

    after_the_first([1, 3], 3) == [[True, False, False], [False, True, True]].
    """
    counts = counted(lengths, width)
    counts[:, 0] = lengths == 1
    return counts


def mean_over(values: Tensor, lengths: Tensor) -> Tensor:
    """The mean of each row's answer.  [n, A], [n], at least 1 -> [n]

    mean_over([[4, 9], [1, 3]], [1, 2]) == [4, 2].
    """
    return (values * counted(lengths, values.shape[1])).sum(1) / lengths


def answered(labels: Tensor, lengths: Tensor, width: int) -> Tensor:
    """The answers' tokens from labels that are below 0 elsewhere, 0 behind an end.  [n, T], [n] -> [n, width] int64

    answered([[-100, -100, 5], [-100, 7, 8]], [1, 2], 2) == [[5, 0], [7, 8]].
    """
    mask, shifted = counted(lengths, width), labels[:, 1:]
    return torch.zeros_like(mask, dtype=torch.long).masked_scatter(mask, shifted[shifted >= 0])


def token_shares(labels: Tensor, skip: int = 0) -> Tensor:
    """n·|y_i| / Σ_j |y_j|, |y| without the first `skip` tokens.  [n, T] -> [n]

    Times means over the tokens of each answer, their mean is that over all tokens of all answers.
    token_shares([[−100, 5, −100], [−100, 5, 7]]) == [2/3, 4/3].
    """
    count = ((labels[:, 1:] >= 0).sum(1) - skip).clamp(min=0).double()
    shares: Tensor = (count * len(count) / count.sum().clamp(min=1)).float()
    return shares
