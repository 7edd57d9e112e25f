"""What a denoiser knows of pictures, in nats: the I-MMSE identity of Guo, Shamai & Verdú 2005, for diffusion by Kong et al. 2023,
arXiv:2310.07972.

    −log p(x|c) = ½ ∫ E_ε ‖ε − ε̂(x_α, c)‖² dα + const,     α = log ᾱ/(1 − ᾱ),  x_α = √ᾱ x + √(1 − ᾱ) ε

with a constant that no condition c changes, so the difference of two conditions is a log-likelihood ratio (with the sign that
it has).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lethe.core.seeds import generator


def information(squared: Tensor, log_snr: Tensor) -> Tensor:
    """½ ∫ squared dα by trapezoids; the order of the levels does not matter.  [..., K], [K] -> [...]

    squared (2, 4) at α (0, 1): ½ · (2 + 4)/2 = 1.5.
    """
    order = torch.argsort(log_snr)
    return 0.5 * torch.trapezoid(squared[..., order], log_snr[order], dim=-1)


def log_snr(alphas: Tensor) -> Tensor:
    """log ᾱ/(1 − ᾱ) in float64."""
    return (alphas.double() / (1 - alphas.double())).log()


def noise_levels(alphas: Tensor, count: int, low: float = 0.02, high: float = 0.98, loudest: float = float("inf")) -> Tensor:
    """`count` time steps between these shares of the schedule, evenly spaced in log-SNR.  [T] -> [count]

    loudest  the largest log-SNR. The integral from α₁ down is what is known of the picture under noise of this level, x_{α₁}.
    """
    total, clear = len(alphas), int((log_snr(alphas) > loudest).sum())
    last = round(high * (total - 1))
    first = min(max(round(low * (total - 1)), clear), last)
    snr = log_snr(alphas[first : last + 1])
    aims = torch.linspace(float(snr[0]), float(snr[-1]), count, dtype=torch.float64)
    return first + (snr.unsqueeze(0) - aims.unsqueeze(1)).abs().argmin(1)


def surprises(ask: Callable[[Tensor, Tensor, slice], Tensor], mix: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor,
              alphas: Tensor, times: Tensor, seed: int, size: int = 64) -> Tensor:
    """½ ∫ ‖ε − ε̂‖² dα of every picture under m conditions, with one draw of noise a level.  -> [m, n], float64, on the CPU

    ask(x_t, t, part)  noise predicted for the pictures x[part] at the time steps t [b], under each condition  -> [m, b, …]
    mix(x, ε, t)       x_t: pictures under noise at their time steps
    x                  pictures [n, …];  alphas: ᾱ of every time step;  times: the K levels [K]
    Noise of a picture depends on the seed and its place, not on the batch: the same for all models and conditions.
    """
    snr, found = log_snr(alphas[times.cpu()].cpu()), []
    for start in range(0, len(x), size):
        part = slice(start, min(start + size, len(x)))
        some = x[part]
        noise = torch.stack([torch.randn((len(times), *x.shape[1:]), generator=generator(seed, "surprise", i))
                             for i in range(part.start, part.stop)]).to(some)
        errors = []
        for k, t in enumerate(times.tolist()):
            when = torch.full((len(some),), t, device=some.device)
            said = ask(mix(some, noise[:, k], when), when, part)
            errors.append((said - noise[:, k]).square().flatten(2).sum(2).double().cpu())
        found.append(information(torch.stack(errors, -1), snr))
    return torch.cat(found, 1)
