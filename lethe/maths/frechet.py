"""Fréchet distance of two clouds of features, as Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet(mean_p: Tensor, cov_p: Tensor, mean_q: Tensor, cov_q: Tensor) -> float:
    """‖μ_p − μ_q‖² + tr(Σ_p + Σ_q − 2 (Σ_p^½ Σ_q Σ_p^½)^½), in float64.  [d], [d, d] ×2

    The squared 2-Wasserstein distance of two Gaussians. The product under the root is symmetric, so its eigenvalues
    suffice; they are cut at 0. d = 1, N(0, 1) and N(3, 4): 9 + 1 + 4 − 2·2 = 10.
    """
    mean_p, cov_p, mean_q, cov_q = (value.double() for value in (mean_p, cov_p, mean_q, cov_q))
    values, vectors = torch.linalg.eigh(cov_p)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_q @ root).clamp(min=0).sqrt().sum()
    distance = (mean_p - mean_q).square().sum() + cov_p.trace() + cov_q.trace() - 2 * cross
    return max(0.0, float(distance))


def frechet_of(p: Tensor, q: Tensor) -> float:
    """The Fréchet distance of two sets of features.  [n, d], [m, d], n and m at least 2"""
    return frechet(p.double().mean(0), torch.cov(p.double().T), q.double().mean(0), torch.cov(q.double().T))
