"""One deterministic step along a diffusion trajectory, up or down. Song, Meng & Ermon (2020), arXiv:2010.02502.

    x̂₀ = (x_t − √(1 − ᾱ_t) ε) / √ᾱ_t,      x_s = √ᾱ_s x̂₀ + √(1 − ᾱ_s) ε,      ε = ε_θ(x_t, t)
"""

from __future__ import annotations

from torch import Tensor


def ddim_step(x: Tensor, noise: Tensor, alpha: Tensor, alpha_to: Tensor, bound: float | None = None) -> Tensor:
    """From noise level ᾱ_t = `alpha` to ᾱ_s = `alpha_to` (scalars); with `bound`, x̂₀ is cut to [−bound, bound] first.

    x = 1, ε = 0.6, ᾱ 0.64 → 0.36: x̂₀ = (1 − 0.6·0.6)/0.8 = 0.8, so 0.6·0.8 + 0.8·0.6 = 0.96.  [n, …], [n, …] -> [n, …]
    """
    clean = (x - (1 - alpha).sqrt() * noise) / alpha.sqrt()
    if bound is not None:
        clean = clean.clamp(-bound, bound)
    return alpha_to.sqrt() * clean + (1 - alpha_to).sqrt() * noise
