"""Accounting of noisy steps: hand values, and the same bound from a second formulation, which it must equal."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lethe.errors import OutOfRange
from lethe.maths import noisy

CASES = [(1.0, 0.0, 0.1, 0.0, 4, 0.7), (0.3, 2.0, 0.05, 0.0, 30, 0.9), (1.0, 1.0, 0.5, 1.0, 3, 1.1),
         (2.0, 0.4, 0.1, 5.0, 12, 0.8)]


def test_hand_values() -> None:
    """2Φ(½) − 1; ¼·2 + 1·(1 + ½) = 2; 2·1/(1·√4) = 1, for any number of parts."""
    assert noisy.gaussian_delta(1, 0) == pytest.approx(0.3829249225)
    assert noisy.gaussian_mu(0, 0.3829249225) == pytest.approx(1) and noisy.gaussian_epsilon(1, 0.3829249225) < 1e-8
    assert noisy.apart(1, 1, 0.5, 1, 2) == pytest.approx(2)
    assert noisy.shifted_mu(1, 0, 0.1, 0, 4, 1.0) == noisy.shifted_mu(1, 0, 0.1, 0, 4, 1.0, 5) == 1
    with pytest.raises(OutOfRange, match="do not shrink"):
        noisy.shifted_mu(1, 1, 1.0, 2.0, 3, 1.0)


@pytest.mark.parametrize("case", CASES)
def test_it_equals_the_end_of_the_two_runs_that_are_hardest_to_tell_apart(case: tuple[float, ...]) -> None:
    """On a line, from ±C₀ with gradients of ∓C₁ for ever: both ends are Gaussian; E_ε of their densities by integration."""
    radius, clip, rate, decay, steps, sigma = case
    ends, variance = [radius, -radius], 0.0
    for _ in range(int(steps)):
        ends = [(1 - rate * decay) * x + rate * clip * math.copysign(1, x) for x in ends]
        variance = (1 - rate * decay) ** 2 * variance + sigma**2
    z = np.linspace(-12, 12, 200_001) * math.sqrt(variance)
    p, q = (np.exp(-((z - end) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance) for end in ends)
    mu = noisy.shifted_mu(radius, clip, rate, decay, int(steps), sigma)
    for epsilon in (0.0, 0.5, 2.0):
        told = np.trapezoid(np.maximum(p - math.exp(epsilon) * q, 0), z)
        assert noisy.gaussian_delta(mu, epsilon) == pytest.approx(told, abs=1e-7)


@pytest.mark.parametrize(("epsilon", "steps", "rate"), [(1.0, 100, 0.01), (2.8, 100, 0.01), (0.5, 10, 0.1)])
def test_the_papers_noise_is_enough_and_renyi_divergence_asks_for_more(epsilon: float, steps: int, rate: float) -> None:
    """σ² = 9·ln(1/δ)/ε²·(C₀ + γC₁T)²/T of the paper; and min over α of αμ²/2 + ln(1/δ)/(α − 1) = μ²/2 + μ·√(2 ln(1/δ))."""
    delta = 1e-5
    sigma = math.sqrt(9 * math.log(1 / delta) / epsilon**2 * (1 + rate * steps) ** 2 / steps)
    mu = noisy.shifted_mu(1.0, 1.0, rate, 0.0, steps, sigma)
    renyi = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    assert 0.5 * epsilon < noisy.gaussian_epsilon(mu, delta) < renyi < epsilon


@pytest.mark.parametrize(("steps", "epsilon", "sigma"), [(1, 1.0, 0.6), (2, 0.0, 1.0), (3, 0.5, 0.8), (6, 2.0, 0.5)])
def test_clipped_models_equal_the_two_runs_that_are_hardest_to_tell_apart(steps: int, epsilon: float, sigma: float) -> None:
    """On a line, from ±1: each step sends what one run is likelier to hold to +1, all else to −1; by integration of densities."""
    z = np.linspace(-1 - 12 * sigma, 1 + 12 * sigma, 400_001)
    up, down = (np.exp(-((z - c) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi)) for c in (1, -1))
    p, q, told = up, down, 1.0
    for step in range(steps):
        if step:
            likelier = p > math.exp(epsilon) * q
            p, q = (h * up + (1 - h) * down for h in (np.trapezoid(likelier * d, z) for d in (p, q)))
        told = float(np.trapezoid(np.maximum(p - math.exp(epsilon) * q, 0), z))
    found = noisy.models_delta(1.0, sigma, steps, epsilon)
    assert found == pytest.approx(told, rel=1e-4)
    assert found <= noisy.gaussian_delta(2 / sigma, epsilon) ** steps * (1 + 1e-12)   # the contraction coefficient of the paper


def test_noise_of_clipped_models_gives_back_its_epsilon_and_never_more() -> None:
    """C = ½, σ = 1, ε = 0: 2Φ(½) − 1, and to the power of steps; more steps ask for less noise."""
    assert noisy.models_delta(0.5, 1.0, 1, 0.0) == pytest.approx(0.3829249225)
    assert noisy.models_delta(0.5, 1.0, 3, 0.0) == pytest.approx(0.3829249225**3)
    sigmas = [noisy.models_noise(1.0, 1e-5, 0.02, steps) for steps in (1, 5, 20, 80)]
    assert sigmas == sorted(sigmas, reverse=True)
    for epsilon in (0.1, 1.0, 8.0):
        found = noisy.models_epsilon(0.3, noisy.models_noise(epsilon, 1e-6, 0.3, 7), 7, 1e-6)
        assert epsilon * (1 - 1e-6) < found <= epsilon
    assert noisy.models_epsilon(1, 0.0, 5, 1e-5) == noisy.models_epsilon(1, 1e-3, 1, 1e-5) == math.inf


@pytest.mark.parametrize("parts", [1, 4])
def test_noise_gives_back_the_epsilon_it_was_made_for_and_never_more(parts: int) -> None:
    for epsilon in (0.1, 1.0, 8.0):
        sigma = noisy.noise_for(epsilon, 1e-6, 0.5, 0.2, 0.01, 3.0, 7, parts)
        found = noisy.gaussian_epsilon(noisy.shifted_mu(0.5, 0.2, 0.01, 3.0, 7, sigma, parts), 1e-6)
        assert epsilon * (1 - 1e-8) < found <= epsilon
    assert noisy.gaussian_epsilon(1e9, 1e-6) == math.inf and noisy.shifted_mu(1, 1, 1, 0, 1, 0.0) == math.inf
