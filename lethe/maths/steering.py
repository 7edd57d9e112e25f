"""Hidden states that are moved to a fixed vector or held where they were: distances over the tokens that count."""

from __future__ import annotations

import torch
from torch import Tensor


def control_vector(width: int, length: float, rng: torch.Generator) -> Tensor:
    """c·r/‖r‖ with r uniform in [0, 1)^width.  -> [d]"""
    r = torch.rand(width, generator=rng)
    vector: Tensor = length * r / r.norm()
    return vector


def steering_loss(hidden: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Mean squared distance over the tokens that count and all dimensions.  [n, T, d], [n, T, d] or [d], [n, T] bool -> [n]

    steering_loss([[[1, 1], [9, 9]]], [3, 1], [[True, False]]) = (2² + 0²)/2 = 2.
    """
    square = (hidden.float() - target.float()).square().mean(-1)
    return (square * counts).sum(1) / counts.sum(1)


def default_layer(count: int) -> int:
    """Block 7 of 32, at the same relative depth elsewhere; at least 2, so that three blocks can move."""
    return min(max(2, round(count * 7 / 32)), count - 1)
