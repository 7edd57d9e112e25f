"""Sparse codes: a state as the sum of a few of very many directions; Gao et al. (2024), "Scaling and evaluating sparse
autoencoders", arXiv:2406.04093.

    z = ReLU(top_k(E x + β)),    x̂ = z D,    ‖D_j‖ = 1

x a state (less its centre), D_j directions (rows of D), E and β what reads them, top_k keeps the k largest numbers: of each row,
or as many on average of all rows together (Bussmann, Leask & Nanda 2024, arXiv:2412.06410).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Kept = Literal["row", "batch"]   # k of each row, or k a row on average


def asked(states: Tensor, centre: Tensor, scale: Tensor, reads: Tensor, bias: Tensor) -> Tensor:
    """E x + β of x = (h − μ)/s.  [..., d], [d], [], [m, d], [m] -> [..., m]

    h = 5, μ = 1, s = 2, E = (3, −1), β = (0, 1): x = 2, (6, −1).
    """
    return F.linear((states - centre) / scale, reads, bias)


def coded(before: Tensor, k: int, kept: Kept = "row") -> Tensor:
    """z of E x + β.  [n, m] -> [n, m]

    (3, 1, −1) and (2, 5, 4), k = 1: z = (3, 0, 0) and (0, 5, 0); of both rows together the two largest are 5 and 4, so z = 0 and
    (0, 5, 4).
    """
    some, count = (before, k) if kept == "row" else (before.reshape(1, -1), k * len(before))
    value, place = some.topk(min(count, some.shape[1]), 1)
    return torch.zeros_like(some).scatter(1, place, value.relu()).view_as(before)


def unexplained(x: Tensor, said: Tensor) -> Tensor:
    """Σ ‖x − x̂‖² / Σ ‖x − x̄‖², the share of the variance that is not explained.  [n, d] ×2 -> []

    x = 0 and 2, x̂ = 1 and 2: 1 / (1 + 1) = ½; the mean itself as x̂: 1.
    """
    return (x - said).square().sum() / (x - x.mean(0)).square().sum().clamp(min=1e-12)


def geometric_median(x: Tensor, steps: int = 100) -> Tensor:
    """The point with the least sum of distances to the rows, by Weiszfeld's steps.  [n, d] -> [d]

    0, 1 and 10 on a line: 1.
    """
    found = x.mean(0)
    for _ in range(steps):
        weight = 1 / (x - found).norm(dim=1, keepdim=True).clamp(min=1e-6)
        found = (weight * x).sum(0) / weight.sum()
    return found
