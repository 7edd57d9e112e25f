"""Small perturbations of continuous inputs: neighbours of an example in an ℓ2 ball, at random or where it is best recognised."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lethe.core.split import Batch, pixels
from lethe.errors import DataError


def continuous(batch: Batch) -> Batch:
    """The batch with its inputs `x` as floats (bytes are scaled to [0, 1]); an error where there are none, or tokens."""
    x = batch.columns.get("x")
    if x is None or not pixels(x).is_floating_point():
        kind = "missing" if x is None else str(x.dtype).removeprefix("torch.")
        raise DataError(f"column 'x' is {kind}, but only continuous inputs have neighbours that a small perturbation reaches, so "
                        "nothing was started. Choose a method or audit that does not perturb inputs.")
    return batch.replace(x=pixels(x))


def lengths(x: Tensor) -> Tensor:
    """ℓ2 norm of each example, shaped to multiply x.  [n, …] -> [n, 1, …]"""
    norms: Tensor = x.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))
    return norms


def on_sphere(x: Tensor, radius: float, rng: torch.Generator) -> Tensor:
    """A point at distance `radius` from each example, in a uniformly random direction.  [n, …] -> [n, …]

    In many dimensions nearly all of a ball lies at its surface.
    """
    away = torch.randn(x.shape, generator=rng).to(x.device)
    return x + radius * away / lengths(away).clamp(min=1e-12)


def within(x: Tensor, centre: Tensor, radius: float) -> Tensor:
    """x, or the nearest point of the ball around its centre.  [n, …], [n, …] -> [n, …]

    within([[3, 4]], 0, 2.5) == [[1.5, 2]].
    """
    away = x - centre
    return centre + away * (radius / lengths(away).clamp(min=1e-12)).clamp(max=1)


def recognised(loss: Callable[[Tensor], Tensor], start: Tensor, centre: Tensor, radius: float, steps: int) -> Tensor:
    """The neighbour of least loss on the way of `steps` projected gradient steps of 2.5·radius/steps.  [n, …], [n, …] -> [n, …]

    loss  inputs [n, …] -> [n]; its parameters get no gradient
    """
    x, best, least = start.detach(), start.detach(), torch.full((len(start),), torch.inf, device=start.device)
    for step in range(steps + 1):
        with torch.enable_grad():
            now = loss(x.requires_grad_(True))
            (slope,) = torch.autograd.grad(now.sum(), x) if step < steps else (x,)
        x, now = x.detach(), now.detach()
        best = torch.where((now < least).view(-1, *[1] * (x.dim() - 1)), x, best)
        least = torch.minimum(least, now)
        x = within(x - 2.5 * radius / max(steps, 1) * slope / lengths(slope).clamp(min=1e-12), centre, radius)
    return best
