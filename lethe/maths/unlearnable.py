"""Unlearnable clusters: a small perturbation per cluster of images that draws their features to a wrong centre, so that a model
trained on them learns the perturbation instead of the picture. Zhang et al. (2023), CVPR 2023, arXiv:2301.01217.

    k-means of features f(x) into p clusters with centres μ;  π(k) = (k + 1) mod p
    δ_k = argmin_{‖δ‖_∞ ≤ ε} E_x KL( softmax(μ_π(k)) ‖ softmax(f(clip(x + δ))) ),  x any image;  x' = clip(x + δ_cluster(x))

No labels. Deviation: δ_k is free and found by sign-gradient steps; the paper trains a generator per cluster.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lethe.maths.losses import kl


def nearest_centre(points: Tensor, centres: Tensor) -> Tensor:
    """[n, d], [p, d] -> [n]"""
    return torch.cdist(points, centres).argmin(1)


def k_means(points: Tensor, count: int, rng: torch.Generator, rounds: int = 50) -> Tensor:
    """Centres by Lloyd's rounds from distant starts (k-means++, Arthur & Vassilvitskii 2007).  [n, d] -> [p, d]

    A cluster that runs empty is moved to the point that is furthest from its centre.
    """
    chosen = [int(torch.randint(len(points), (1,), generator=rng))]
    while len(chosen) < count:
        distance = torch.cdist(points, points[chosen]).amin(1).square()
        weights = distance if float(distance.sum()) > 0 else torch.ones(len(points))
        chosen.append(int(torch.multinomial(weights, 1, generator=rng)))
    centres = points[chosen]
    for _ in range(rounds):
        owner = nearest_centre(points, centres)
        furthest = points[torch.cdist(points, centres).amin(1).argmax()]
        moved = torch.stack([points[owner == k].mean(0) if (owner == k).any() else furthest for k in range(count)])
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def drawing(features: Callable[[Tensor], Tensor], x: Tensor, centre: Tensor, bound: float, steps: int, rng: torch.Generator,
            batch_size: int = 128) -> Tensor:
    """δ within ±bound that draws the features of any of the images in [0, 1] to the centre.  x [n, …], centre [d] -> [1, …]"""
    delta = torch.zeros_like(x[:1])
    for step in range(steps):
        some = x[torch.randint(len(x), (min(batch_size, len(x)),), generator=rng)]
        delta.requires_grad_(True)
        reached = features((some + delta).clamp(0, 1))
        (gradient,) = torch.autograd.grad(kl(centre.expand_as(reached), reached).mean(), delta)
        rate = 0.1 * bound * (1 - step / steps) + 0.01 * bound
        delta = (delta.detach() - rate * gradient.sign()).clamp(-bound, bound)
    return delta
