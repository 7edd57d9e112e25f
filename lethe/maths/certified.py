"""Certified removal: bounds, noise and privacy accounting as functions of numbers. No model, no data.

ε, δ of certified removal: for all sets S of models, P[U(A(D), D, F) ∈ S] ≤ e^ε · P[A(D∖F) ∈ S] + δ, and the other way round.
Sources: Guo et al. (2020), arXiv:1911.03030; Neel et al. (2021), arXiv:2007.02923; Chien et al. (2024), arXiv:2401.10371;
Cohen et al. (2019), arXiv:1902.02918 (smoothing); Dwork & Roth (2014), theorem 2.2 (groups).
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

from lethe.errors import OutOfRange

# -- Newton removal with a perturbed objective (Guo et al.) -----------------------------------------------------------------


def removal_constant(delta: float) -> float:
    """c = √(2 ln(1.5/δ)).  c(1.5·e^{−2}) == 2."""
    _between("delta", delta, 0, 1)
    return math.sqrt(2 * math.log(1.5 / delta))


def removal_budget(sigma: float, epsilon: float, delta: float) -> float:
    """Largest gradient residual β that noise b ~ N(0, σ²I) in the objective hides: σε/c.  σ=10, ε=1, c=2: 5."""
    return sigma * epsilon / removal_constant(delta)


def removal_epsilon(sigma: float, beta: float, delta: float) -> float:
    """The ε of a residual β: cβ/σ."""
    return removal_constant(delta) * beta / sigma


def residual_bound(gamma: float, radius: float, spectral: Tensor, step: Tensor, moved: Tensor) -> Tensor:
    """‖∇L(w⁻)‖ ≤ γ · max‖x_i‖ · ‖X‖₂ · ‖v‖ · ‖Xv‖ with the step v = H⁻¹Δ.  [], [d], [n] -> []

    gamma   Lipschitz constant of ℓ''; ¼ is above the true 1/(6√3) of the logistic loss, 0 for the squared loss
    radius  max‖x_i‖ over the retained examples; 1 in the paper, which requires ‖x‖ ≤ 1
    (H_η − H)v = Xᵀ(D_η − D)Xv, |D_η − D|_ii ≤ γ·|x_iᵀv| ≤ γ·max‖x_i‖·‖v‖.
    """
    bound: Tensor = gamma * radius * spectral * step.norm() * moved.norm()
    return bound


def worst_residual(gamma: float, gradient: float, ridge: float, n: int, radius: float = 1.0, noise: float = 0.0,
                   count: int = 1) -> float:
    """The same before any data are seen: γ · radius³ · k²(2C + ‖b‖/n)² / (λ²(n − k)).

    4γC²/(λ²(n − 1)) in the paper (k = 1, radius 1, b = 0).  γ=¼, C=1, λ=0.1, n=101: 1.
    gradient  C ≥ ‖∇ℓ‖; ridge λ; n examples of which k = `count` are removed at once; noise ‖b‖, which moves the optimum:
              ‖λw‖ ≤ C + ‖b‖/n, hence ‖Δ‖ ≤ k(2C + ‖b‖/n); ‖v‖ ≤ ‖Δ‖/(λ(n−k)), ‖X‖ ≤ radius·√(n−k)
    """
    return gamma * radius**3 * (count * (2 * gradient + noise / n)) ** 2 / (ridge**2 * (n - count))


def spectral_norm(gram: Tensor) -> Tensor:
    """‖X‖₂ from the largest eigenvalue of XᵀX: exact, where power iteration ends below.  [d, d] -> []"""
    spectral: Tensor = torch.linalg.eigvalsh(gram)[-1].clamp(min=0).sqrt()
    return spectral


# -- noise for repeated gradient descent (Neel et al.) ------------------------------------------------------------------------


def descent_rate(convexity: float, smoothness: float) -> float:
    """Contraction γ = (L − m)/(L + m) of a gradient step of size 2/(L + m)."""
    if not 0 < convexity <= smoothness:
        raise OutOfRange(f"convexity m = {convexity} and smoothness L = {smoothness} must satisfy 0 < m ≤ L; nothing was "
                         "computed.")
    return (smoothness - convexity) / (smoothness + convexity)


def descent_sigma(epsilon: float, delta: float, steps: int, n: int, convexity: float, smoothness: float, lipschitz: float
                  ) -> float:
    """Noise on the published weights after I steps per request: 4√2·M·γ^I / (m·n·(1 − γ^I)·(√(ln(1/δ) + ε) − √ln(1/δ))).

    m=1, L=3, M=1, n=100, I=1 (γ^I = ½), δ=e⁻¹, ε=3: 4√2·½ / (100·½·(2 − 1)) = 0.0565685.
    """
    part = descent_rate(convexity, smoothness) ** steps
    log = math.log(1 / delta)
    return 4 * math.sqrt(2) * lipschitz * part / (convexity * n * (1 - part) * (math.sqrt(log + epsilon) - math.sqrt(log)))


def descent_sigma_perfect(epsilon: float, delta: float, steps: int, n: int, convexity: float, smoothness: float, lipschitz: float
                          ) -> float:
    """The same when the noisy weights themselves are kept: 8Mγ^I / (m·n·(1−γ^I)·(√(2 ln(2/δ)+3ε) − √(2 ln(2/δ)+2ε))).

    Later requests i need more steps, by a term that grows like log log(4di/δ)/log(1/γ).
    """
    part = descent_rate(convexity, smoothness) ** steps
    log = 2 * math.log(2 / delta)
    gap = math.sqrt(log + 3 * epsilon) - math.sqrt(log + 2 * epsilon)
    return 8 * lipschitz * part / (convexity * n * (1 - part) * gap)


# -- noisy gradient descent (Chien et al.) ------------------------------------------------------------------------------------


def langevin_renyi(order: float, steps: int, n: int, removed: int, convexity: float, smoothness: float, lipschitz: float,
                   sigma: float) -> float:
    """Rényi divergence of order α after K more steps of size 1/L: exp(−Kmη/α)·4αS²M²/(mσ²n²).

    α=2, K=0, S=1, M=1, m=1, σ=1, n=2: 4·2/4 = 2.
    """
    _above("order", order, 1)
    shrink = math.exp(-steps * convexity / (smoothness * order))
    return shrink * 4 * order * removed**2 * lipschitz**2 / (convexity * sigma**2 * n**2)


def langevin_sequence(order: float, steps: list[int], n: int, removed: int, convexity: float, smoothness: float, lipschitz: float,
                      sigma: float) -> float:
    """After requests 1 … s with K_1 … K_s steps: ε_s(α) = e^{−mηK_s/α}·(α − ½)/(α − 1)·[ε₀(2α) + ε_{s−1}(2α)]."""
    def rest(alpha: float) -> float:
        return langevin_renyi(alpha, 0, n, removed, convexity, smoothness, lipschitz, sigma)

    if len(steps) == 1:
        return langevin_renyi(order, steps[0], n, removed, convexity, smoothness, lipschitz, sigma)
    before = langevin_sequence(2 * order, steps[:-1], n, removed, convexity, smoothness, lipschitz, sigma)
    shrink = math.exp(-steps[-1] * convexity / (smoothness * order))
    return shrink * (order - 0.5) / (order - 1) * (rest(2 * order) + before)


def langevin_epsilon(delta: float, steps: list[int], n: int, removed: int, convexity: float, smoothness: float, lipschitz: float,
                     sigma: float) -> float:
    """(ε, δ) of a sequence of requests: min over α > 1 of ε_α + ln(1/δ)/(α − 1); α on a fine grid, so never below."""
    _between("delta", delta, 0, 1)
    orders = [1 + 10 ** (k / 100) for k in range(-300, 501)]
    return min(langevin_sequence(a, steps, n, removed, convexity, smoothness, lipschitz, sigma) + math.log(1 / delta) / (a - 1)
               for a in orders)


# -- differential privacy, and balls --------------------------------------------------------------------------------------------


def group_privacy(epsilon: float, delta: float, size: int) -> tuple[float, float]:
    """(kε, k·e^{(k−1)ε}·δ): what (ε, δ)-DP for one record implies for k records.  ε=ln 2, δ=0.01, k=2: (2 ln 2, 0.04)."""
    return size * epsilon, size * math.exp((size - 1) * epsilon) * delta


def weight_ball(gradient_norm: float, convexity: float) -> float:
    """‖w − w*‖ ≤ ‖∇L(w)‖/m for an m-strongly convex L: how far retrained weights can be."""
    _above("convexity", convexity, 0)
    return gradient_norm / convexity


def linear_input_ball(logits: Tensor, weight: Tensor) -> Tensor:
    """Radius within which the class of a linear model stays: min over k of (z_c − z_k)/‖w_c − w_k‖.  [n, K], [K, d] -> [n]"""
    best = logits.argmax(1)
    rise = logits.gather(1, best.unsqueeze(1)) - logits
    apart = torch.cdist(weight, weight)[best]
    other = torch.arange(logits.shape[1]) != best.unsqueeze(1)
    return torch.where(other, rise / apart.clamp(min=torch.finfo(apart.dtype).tiny), math.inf).amin(1)


def suppression_ball(sigma: float, upper: float) -> float:
    """−σΦ⁻¹(p̄): no change of norm below it makes a smoothed model that abstains without a majority answer the class.

    p̄ < ½ is an upper confidence bound of the share of noisy votes for the class; noise N(0, σ²I) on inputs or on weights.
    """
    _between("upper", upper, 0, 0.5)
    return -sigma * NormalDist().inv_cdf(upper)


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise OutOfRange(f"{name} = {value} is not between {low} and {high}, so there is no bound; nothing was computed.")


def _above(name: str, value: float, low: float) -> None:
    if not value > low:
        raise OutOfRange(f"{name} = {value} is not above {low}, so there is no bound; nothing was computed.")
