"""leak@k and bounds over samples: by hand, by exhaustion, by simulated coverage."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from lethe.maths.sampling import leak_at_k, mean_bound, share_bound, tail_bound


def test_leak_at_k_is_the_mean_over_all_draws() -> None:
    assert leak_at_k(np.array([1]), 4, 2) == pytest.approx([0.5])
    assert leak_at_k(np.array([0, 4, 3]), 4, 2) == pytest.approx([0, 1, 1])
    for c in range(8):
        hits = [any(i < c for i in draw) for draw in combinations(range(7), 3)]
        assert leak_at_k(np.array([c]), 7, 3) == pytest.approx([np.mean(hits)])
    with pytest.raises(ValueError, match="between 1 and n"):
        leak_at_k(np.array([1]), 4, 5)


def test_bounds_by_hand() -> None:
    assert share_bound(0, 128, 0.01) == pytest.approx(1 - 0.01 ** (1 / 128))
    assert share_bound(5, 5, 0.01) == 1
    epsilon = np.sqrt(np.log(100) / 256)                          # 0.134
    assert mean_bound(np.zeros(128), 0.01) == pytest.approx(epsilon)
    assert tail_bound(np.array([0.2] * 64 + [0.8] * 64), 0.5, 0.01) == pytest.approx(0.5 + epsilon)
    scores = np.random.default_rng(0).beta(1, 9, 128)
    tails = [(scores > x).mean() + epsilon for x in np.linspace(0, 1, 2001)]     # the expectation is the tail's integral
    assert mean_bound(scores, 0.01) == pytest.approx(np.mean(tails), abs=1e-3)


def test_bounds_hold_over_unequal_questions() -> None:
    """Of 400 audits of 10 questions with other chances each, a bound at 5 % may be too low in at most 5 %."""
    rng = np.random.default_rng(1)
    chances = np.linspace(0, 0.3, 10)
    low = 0
    for _ in range(400):
        leaks = rng.random((10, 16)) < chances[:, None]
        low += share_bound(int(leaks.sum()), leaks.size, 0.05) < chances.mean()
        assert mean_bound(leaks, 1e-4) >= chances.mean()
    assert low <= 32   # 5 % and 2.7 standard errors
