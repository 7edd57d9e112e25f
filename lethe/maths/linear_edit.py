"""Linear edits of what reads text states: maps that send some states to others, and spaces that an edit keeps away from."""

from __future__ import annotations

import torch
from torch import Tensor


def uce_map(erase: Tensor, guide: Tensor, keep: Tensor, a: float, b: float, lamb: float) -> Tensor:
    """The right factor T of W = W_0 T in UCE (arXiv:2308.14761), in float64.  [m, d], [m, d], [k, d] -> [d, d]

    d = 1, c = 1, g = 2, k = 3, a = 1, b = 1, λ = 2: (2 + 2 + 9)/(2 + 1 + 9) = 13/12.
    """
    c, g, k = erase.double(), guide.double(), keep.double()
    return map_of_moments(a * g.T @ c, a * c.T @ c, b * k.T @ k, lamb)


def map_of_moments(crossed: Tensor, own: Tensor, kept: Tensor, lamb: float) -> Tensor:
    """(λI + kept + crossed)(λI + kept + own)⁻¹ of weighted sums Σ g cᵀ, Σ c cᵀ and Σ k kᵀ.  [d, d] ×3 -> [d, d]"""
    ridge = lamb * torch.eye(len(own), dtype=own.dtype, device=own.device) + kept
    factor: Tensor = torch.linalg.solve(ridge + own, (ridge + crossed).T).T   # left · right⁻¹; right is symmetric
    return factor


def off_space(states: Tensor) -> Tensor:
    """The projector P off the span of some states: P u = 0 for each of them, P v = v for what is orthogonal.  [m, d] -> [d, d]

    States come out of a network in float32: a direction in which they differ by no more than its rounding belongs to none of
    them, so the span has the rank that they have in that precision. The state (0, 2): P = diag(1, 0); beside (1e-8, 2) still.
    """
    _, size, directions = torch.linalg.svd(states, full_matrices=False)
    span = directions[size > torch.finfo(torch.float32).eps * max(states.shape) * size.max()]
    projector: Tensor = torch.eye(states.shape[1], dtype=states.dtype) - span.T @ span
    return projector


def shrinking(states: Tensor, ridge: float) -> Tensor:
    """(I + C/(λ s))^(−1/2), C the mean of u uᵀ and s = tr C/d: small where states lie, 1 where none do.  [m, d] -> [d, d]

    States (2, 0) and (0, 0), λ = 1: C = diag(2, 0), s = 1: diag(1/√3, 1).
    """
    c = states.T @ states / len(states)
    values, vectors = torch.linalg.eigh(c / (ridge * c.diagonal().mean()))
    shrunk: Tensor = vectors @ torch.diag((1 + values.clamp(min=0)).rsqrt()) @ vectors.T
    return shrunk
