"""Calculators of certified removal: hand values, limits, monotonicity, and balls that hold."""

from __future__ import annotations

import math

import pytest
import torch

from lethe.errors import OutOfRange
from lethe.maths import certified as c

SMOOTH = {"n": 1000, "convexity": 0.1, "smoothness": 1.0, "lipschitz": 1.0}


def test_hand_values_of_newton_removal() -> None:
    """c(1.5·e^−2) = √(2·2) = 2; 10·1/2 = 5; ¼·(2·1)²/(0.1²·100) = 1."""
    delta = 1.5 * math.exp(-2)
    assert c.removal_constant(delta) == pytest.approx(2)
    assert c.removal_budget(10, 1, delta) == pytest.approx(5)
    assert c.removal_epsilon(10, 5, delta) == pytest.approx(1)
    assert c.worst_residual(0.25, 1, 0.1, 101) == pytest.approx(1)
    assert c.worst_residual(0.25, 1, 0.1, 101, radius=2, noise=101) == pytest.approx(8 * 9 / 4)   # (2 + 1)² for 2²
    x = torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    assert float(c.spectral_norm(x.T @ x)) == pytest.approx(4)
    step = torch.tensor([0.6, 0.8], dtype=torch.float64)
    assert float(c.residual_bound(0.25, 4.0, c.spectral_norm(x.T @ x), step, x @ step)) == pytest.approx(4 * math.hypot(1.8, 3.2))


def test_hand_values_of_descent_to_delete() -> None:
    """m=1, L=3: γ=½, I=1: 4√2·½/(100·½·(√4 − √1)) = 4√2/100."""
    assert c.descent_rate(1, 3) == 0.5
    assert c.descent_sigma(3, math.exp(-1), 1, 100, 1, 3, 1) == pytest.approx(4 * math.sqrt(2) / 100)
    log = 2 * math.log(2 / 0.01)
    by_hand = 8 * 0.5 / (100 * 0.5 * (math.sqrt(log + 3) - math.sqrt(log + 2)))
    assert c.descent_sigma_perfect(1, 0.01, 1, 100, 1, 3, 1) == pytest.approx(by_hand)


def test_hand_values_of_langevin() -> None:
    """4·2·1·1/(1·1·4) = 2; one step of m=L=1 at α=2 shrinks it by e^−½; two requests by hand."""
    assert c.langevin_renyi(2, 0, 2, 1, 1, 1, 1, 1) == 2
    assert c.langevin_renyi(2, 1, 2, 1, 1, 1, 1, 1) == pytest.approx(2 * math.exp(-0.5))
    first = c.langevin_renyi(4, 3, 2, 1, 1, 1, 1, 1)
    by_hand = math.exp(-5 / 2) * 1.5 * (c.langevin_renyi(4, 0, 2, 1, 1, 1, 1, 1) + first)
    assert c.langevin_sequence(2, [3, 5], 2, 1, 1, 1, 1, 1) == pytest.approx(by_hand)
    one = [c.langevin_renyi(a, 3, 1000, 1, 1, 1, 1, 0.03) + math.log(1000) / (a - 1) for a in (1.5, 2.0, 5.0, 30.0)]
    assert 0 < c.langevin_epsilon(1e-3, [3], 1000, 1, 1, 1, 1, 0.03) <= min(one)


def test_more_work_needs_less_noise_and_leaves_less() -> None:
    for sigma in (c.descent_sigma, c.descent_sigma_perfect):
        noise = [sigma(1.0, 1e-5, steps, **SMOOTH) for steps in (1, 2, 5, 20, 100)]
        assert noise == sorted(noise, reverse=True) and noise[-1] < 1e-6 * noise[0]
        assert sigma(2.0, 1e-5, 5, **SMOOTH) < sigma(1.0, 1e-5, 5, **SMOOTH) < sigma(1.0, 1e-7, 5, **SMOOTH)
    left = [c.langevin_epsilon(1e-5, [steps], removed=1, sigma=0.03, **SMOOTH) for steps in (0, 10, 100, 1000)]
    assert left == sorted(left, reverse=True)
    groups = [c.langevin_epsilon(1e-5, [10], removed=k, sigma=0.03, **SMOOTH) for k in (1, 2, 10)]
    assert groups == sorted(groups)
    assert c.langevin_epsilon(1e-5, [10, 10], removed=1, sigma=0.03, **SMOOTH) > left[1]


def test_groups() -> None:
    assert c.group_privacy(math.log(2), 0.01, 2) == pytest.approx((2 * math.log(2), 0.04))
    assert c.group_privacy(0.5, 1e-5, 1) == (0.5, 1e-5)


def test_retrained_weights_lie_in_the_weight_ball() -> None:
    """Ridge regression, 20 random points: ‖w − w*‖ ≤ ‖∇L(w)‖/m; equal along the flattest direction."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 5, generator=rng).double(), torch.randn(50, generator=rng).double()
    h = x.T @ x + torch.eye(5, dtype=torch.float64)
    best = torch.linalg.solve(h, x.T @ y)
    values, vectors = torch.linalg.eigh(h)
    for _ in range(20):
        w = best + torch.randn(5, generator=rng).double()
        assert torch.dist(w, best) <= c.weight_ball(float((h @ (w - best)).norm()), float(values[0])) + 1e-12
    w = best + vectors[:, 0]
    assert c.weight_ball(float((h @ (w - best)).norm()), float(values[0])) == pytest.approx(1.0)


def test_the_class_of_a_linear_model_stays_within_the_ball_and_changes_just_outside() -> None:
    rng = torch.Generator().manual_seed(1)
    weight, x = torch.randn(4, 3, generator=rng).double(), torch.randn(30, 3, generator=rng).double()
    logits = x @ weight.T
    radius = c.linear_input_ball(logits, weight)
    for i, r in enumerate(radius):
        best = int(logits[i].argmax())
        turns = [(best - k, weight[k] - weight[best]) for k in range(4) if k != best]
        moved = [(x[i] + f * r * way / way.norm()) @ weight.T for f in (0.999, 1.001) for _, way in turns]
        assert all(int(z.argmax()) == best for z in moved[:3]) and any(int(z.argmax()) != best for z in moved[3:])


def test_suppression_ball() -> None:
    """Φ⁻¹(0.1587) = −1: σ."""
    assert c.suppression_ball(0.5, 0.15865525393145707) == pytest.approx(0.5)
    assert c.suppression_ball(0.5, 0.01) > c.suppression_ball(0.5, 0.1)
    with pytest.raises(OutOfRange):
        c.suppression_ball(0.5, 0.5)


@pytest.mark.parametrize("call", [
    lambda: c.removal_constant(0), lambda: c.removal_constant(1), lambda: c.descent_rate(2, 1), lambda: c.weight_ball(1, 0),
    lambda: c.langevin_renyi(1, 1, 1, 1, 1, 1, 1, 1), lambda: c.langevin_epsilon(0, [1], 10, 1, 1, 1, 1, 1),
])
def test_values_without_a_bound_are_refused(call: object) -> None:
    with pytest.raises(OutOfRange, match="nothing was computed"):
        call()   # type: ignore[operator]
