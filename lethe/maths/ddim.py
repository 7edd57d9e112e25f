"""One deterministic step along a diffusion trajectory, up or down. Song, Meng & Ermon (2020), arXiv:2010.02502.

    x̂₀ = (x_t − n_t ε) / s_t,      x_u = s_u x̂₀ + n_u ε,      ε = ε_θ(x_t, t),      x_t = s_t x + n_t ε

s signal and n noise: of a chain √ᾱ and √(1 − ᾱ), which is DDIM; of a flow 1 − t/T and t/T, where it is Euler's step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

Levels = tuple[Tensor, Tensor]   # s and n, scalars or shaped for x


def ddim_step(x: Tensor, noise: Tensor, here: Levels, there: Levels, bound: float | None = None) -> Tensor:
    """From the levels (s, n) of `here` to those of `there`; with `bound`, x̂₀ is cut to [−bound, bound] first.

    x = 1, ε = 0.6, (0.8, 0.6) → (0.6, 0.8): x̂₀ = (1 − 0.6·0.6)/0.8 = 0.8, so 0.6·0.8 + 0.8·0.6 = 0.96.  [n, …], [n, …] -> [n, …]
    """
    clean = (x - here[1] * noise) / here[0]
    if bound is not None:
        clean = clean.clamp(-bound, bound)
    return there[0] * clean + there[1] * noise


def descent(strength: float, steps: int, total: int) -> list[int]:
    """The timesteps from `strength` of `total` down to 0, as many as that share of `steps`.

    strength = ½, 4 steps of 100: two, 49 and 0.
    """
    first = max(1, min(total - 1, round(strength * total) - 1))
    times: list[int] = torch.linspace(first, 0, max(2, round(strength * steps))).round().long().unique().flip(0).tolist()
    return times


def redrawn(
    said: Callable[[Tensor, int], Tensor], image: Tensor, noise: Tensor, times: Sequence[int], levels: Callable[[int], Levels],
    bound: float | None = None, known: Tensor | None = None,
) -> Tensor:
    """Pictures noised to times[0] and denoised along `times`; where `known` is 1 they are held to `image` at every step.

    said    (x_t, t) -> ε      levels  t -> s and n      known  [n or 1, 1 or C, H, W]
    [n, C, H, W] ×2 -> [n, C, H, W]
    """
    def placed(x: Tensor, t: int) -> Tensor:
        signal, size = levels(t)
        shown = (signal * image + size * noise).to(x)
        return shown if known is None else torch.where(known.to(x) > 0, shown, x)

    x = placed(noise, times[0])
    for t, after in pairwise([*times, -1]):
        there = levels(after) if after >= 0 else (torch.ones_like(x[:1, :1, :1, :1]), torch.zeros_like(x[:1, :1, :1, :1]))
        x = ddim_step(x, said(x, t), levels(t), there, bound)
        if known is not None:
            x = placed(x, after) if after >= 0 else torch.where(known.to(x) > 0, image.to(x), x)
    return x
