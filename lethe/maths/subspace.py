"""The directions in which vectors are alike: their mean and their largest principal components, and what is left without them."""

from __future__ import annotations

import torch
from torch import Tensor


def dominant(vectors: Tensor, count: int) -> Tensor:
    """An orthonormal basis of the mean and the count − 1 largest principal components.  [N, d] -> [k, d], k ≤ min(count, d)

    k is less where the vectors span less. dominant([[3, 1], [3, −1]], 1) == [[1, 0]] (the mean), and with 2 all of the plane.
    """
    given = vectors.double()
    mean = given.mean(0)
    centred = given - mean
    directions = [mean.unsqueeze(0)]
    if count > 1:
        tall = len(given) > given.shape[1]
        values, found = torch.linalg.eigh(centred.T @ centred if tall else centred @ centred.T)
        best = found.flip(1)[:, : count - 1]
        kept = best[:, values.flip(0)[: count - 1] > 1e-12 * values[-1].clamp(min=1e-300)]
        directions.append(kept.T if tall else kept.T @ centred)
    spanned = torch.cat(directions)
    spanned = spanned / spanned.norm(dim=1, keepdim=True).clamp(min=1e-300)
    basis, triangle = torch.linalg.qr(spanned.T)
    rows: Tensor = basis.T[triangle.diagonal().abs() > 1e-6]
    return rows.to(vectors.dtype)


def without(vectors: Tensor, basis: Tensor) -> Tensor:
    """What is left of vectors without their part in the span of orthonormal rows.  [..., d], [k, d] -> [..., d]

    without([3, 4], [[1, 0]]) == [0, 4].
    """
    return vectors - (vectors @ basis.T) @ basis
