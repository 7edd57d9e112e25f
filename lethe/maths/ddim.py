"""One deterministic step along a diffusion trajectory, up or down. Song, Meng & Ermon (2020), arXiv:2010.02502.

    x̂₀ = (x_t − n_t ε) / s_t,      x_u = s_u x̂₀ + n_u ε,      ε = ε_θ(x_t, t),      x_t = s_t x + n_t ε

s signal and n noise: of a chain √ᾱ and √(1 − ᾱ), which is DDIM; of a flow 1 − t/T and t/T, where it is Euler's step.
"""

from __future__ import annotations

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
