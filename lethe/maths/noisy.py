"""What noise on the way hides of where a model started: Gaussian accounting of clipped noisy steps. Numbers only, no torch.

    x_{t+1} = c·x_t − γ·Π_{C₁}(g_t(x_t)) + ξ_t,   ξ_t ~ N(0, σ²I),   c = 1 − γλ,   ‖x_0‖ ≤ C₀,   g_t any function of x_t

Two runs of it from any two starts end at distributions that are at least as hard to tell apart as N(0, 1) and N(μ, 1):

    μ = Z / (σ·√S),   Z = c^T·2C₀ + 2γC₁·(1 + c + … + c^{T−1}),   S = 1 + c² + … + c^{2(T−1)}

Why: give one run small shifts a_t so that it meets the other after T steps. Two updates differ by at most c times the distance
plus 2γC₁, so Σ c^{T−t}·a_t = Z is enough, whatever g_t does; each shift under its noise is a Gaussian mechanism of μ_t = a_t/σ,
and Gaussian mechanisms compose to √Σ μ_t² (Dong, Roth & Su 2022, theorem 3), least for a_t ∝ c^{T−t}. It is reached by steps of
±C₁ along one line, so it cannot be improved. Parts of the model that move without noise may be in any state on the way, as long
as each is clipped when its own noisy steps begin and rests when they are over: they can only change g_t.

Clipped models: x_{t+1} = Π_C(x_t − γ·g_t(x_t)) + ξ_t with no bound on g_t. What distinguishes two runs after t steps,
a_t = sup_B P_t(B) − e^ε·Q_t(B), follows from what it was a step before, and a_0 = 1 from any starts:

    a_{t+1} = a_t·δ(2C/σ, ln(1 + (e^ε − 1)/a_t)),   δ(μ, ε) as below;   (ε, a_T) is what T steps give

Why: P_t − e^ε·Q_t has a positive part of mass a_t and a negative one of mass a_t + e^ε − 1; a step sends every point to some
N(c, σ²I) with ‖c‖ ≤ C, and two such are at most N(−C), N(C) apart. It is reached by x ↦ ±C along one line, so it cannot be
improved; a_{t+1} ≤ a_t·δ(2C/σ, ε) is the contraction coefficient of Asoodeh, Diaz & Calmon (2020), arXiv:2012.11035.

(ε, δ) of μ: δ = Φ(−ε/μ + μ/2) − e^ε·Φ(−ε/μ − μ/2) (Balle & Wang 2018, theorem 8).
Sources: Koloskova et al. (2025), arXiv:2506.06985, by Rényi divergence, with σ² = 9·ln(1/δ)/ε² · (C₀ + γC₁T)²/T for λ = 0;
Bok, Su & Altschuler (2024), arXiv:2403.00278, for shifts in this form.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lethe.errors import OutOfRange

LAW = "shifted Gaussian steps"   # what certificates call this accountant
MODELS = "clipped models"        # and the one of models that are clipped at every step
TOP = 1e4    # no ε or μ above it is looked for
MOST = 700   # nor ε of clipped models: e^ε is a number


def normal(z: float) -> float:
    """Φ(z), exact in the lower tail."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def gaussian_delta(mu: float, epsilon: float) -> float:
    """The δ at which N(0, 1) and N(μ, 1) are (ε, δ)-indistinguishable.  μ=1, ε=0: 2Φ(½) − 1 = 0.3829249."""
    if mu == 0:
        return 0.0
    upper, lower = normal(mu / 2 - epsilon / mu), normal(-mu / 2 - epsilon / mu)
    return max(0.0, upper - (math.exp(epsilon + math.log(lower)) if lower else 0.0))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The smallest ε ≥ 0 of N(0, 1) and N(μ, 1) at this δ, rounded up by bisection; infinite above 10,000."""
    _within("delta", delta)
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    if gaussian_delta(mu, TOP) > delta:
        return math.inf
    return _border(lambda epsilon: gaussian_delta(mu, epsilon) > delta)[1]


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The largest μ that is (ε, δ)-indistinguishable, rounded down by bisection.  δ=0.3829249, ε=0: 1."""
    _within("delta", delta)
    return _border(lambda mu: gaussian_delta(mu, epsilon) <= delta)[0]


def apart(radius: float, clip: float, rate: float, decay: float, steps: int) -> float:
    """Z: how far two runs can be pushed apart in all.  C₀=1, C₁=1, γ=½, λ=1 (c=½), T=2: ¼·2 + 1·(1 + ½) = 2."""
    keep = _keep(rate, decay)
    return keep**steps * 2 * radius + 2 * rate * clip * sum(keep**t for t in range(steps))


def shifted_mu(radius: float, clip: float, rate: float, decay: float, steps: int, sigma: float, parts: int = 1) -> float:
    """μ of T noisy steps; of `parts` orthogonal parts in turn, T steps each, clipped to C₀/√parts when its steps begin: √Σ μ².

    C₀=1, C₁=0, λ=0: 2/(σ·√T), for any number of parts.
    """
    if not sigma > 0:
        return math.inf
    each = apart(radius / math.sqrt(parts), clip, rate, decay, steps) / (sigma * math.sqrt(_kept(rate, decay, steps)))
    return math.sqrt(parts) * each


def noise_for(epsilon: float, delta: float, radius: float, clip: float, rate: float, decay: float, steps: int, parts: int = 1
              ) -> float:
    """The σ of each step that makes the whole (ε, δ)-indistinguishable; a hair more than that, so that rounding adds no ε."""
    return (1 + 1e-9) * shifted_mu(radius, clip, rate, decay, steps, 1.0, parts) / gaussian_mu(epsilon, delta)


def models_delta(radius: float, sigma: float, steps: int, epsilon: float) -> float:
    """The δ of T steps, each of a model clipped to C under noise of σ.  C=½, σ=1, T=1, ε=0: 2Φ(½) − 1; T=2: its square."""
    if not sigma > 0:
        return 1.0
    left = 1.0
    for _ in range(steps):
        left *= gaussian_delta(2 * radius / sigma, math.log1p(math.expm1(epsilon) / left)) if left else 0.0
    return left


def models_epsilon(radius: float, sigma: float, steps: int, delta: float) -> float:
    """The smallest ε ≥ 0 of them at this δ, rounded up by bisection; infinite above 700."""
    _within("delta", delta)
    if models_delta(radius, sigma, steps, 0.0) <= delta:
        return 0.0
    return _border(lambda epsilon: models_delta(radius, sigma, steps, epsilon) > delta, MOST)[1] if models_delta(
        radius, sigma, steps, MOST) <= delta else math.inf


def models_noise(epsilon: float, delta: float, radius: float, steps: int) -> float:
    """The σ of each step at which they are (ε, δ)-indistinguishable; a hair more than that, so that rounding adds no ε."""
    _within("delta", delta)
    mu = _border(lambda mu: models_delta(mu / 2, 1.0, steps, epsilon) <= delta)[0]
    return (1 + 1e-9) * 2 * radius / mu


def _kept(rate: float, decay: float, steps: int) -> float:
    """S: the variance that is left of T steps of unit noise."""
    keep = _keep(rate, decay)
    return sum(keep ** (2 * t) for t in range(steps))


def _keep(rate: float, decay: float) -> float:
    """c = 1 − γλ."""
    keep = 1 - rate * decay
    if not 0 <= keep <= 1:
        raise OutOfRange(f"rate · decay = {rate * decay:.3g} is not between 0 and 1, so steps do not shrink the distance of two "
                         "models and there is no bound; nothing was computed. Lower one of them.")
    return keep


def _border(below: Callable[[float], bool], top: float = TOP) -> tuple[float, float]:
    """Two neighbouring numbers between 0 and `top`: the last one that is below a border, and the first one that is not."""
    low, high = 0.0, top
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if below(middle) else (low, middle)
    return low, high


def _within(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise OutOfRange(f"{name} = {value} is not between 0 and 1, so there is no bound; nothing was computed.")
