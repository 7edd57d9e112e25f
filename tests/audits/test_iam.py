"""IAM: limits of the interpolation, by hand; controls."""

from __future__ import annotations

import membership as world
import numpy as np
import pytest
from scipy.stats import norm

from lethe.audits.membership.iam import EULER, membership


def test_golden():
    """Two values of α, ½ and 1, s_n = 0, s_o = 2, s = 1, σ = 1: (½·Φ(0) + 1·Φ(−1)) / 1½."""
    found = membership(np.array([1.0]), np.array([2.0]), np.array([0.0]), 1.0, grid=2)
    assert found == pytest.approx([(0.25 + norm.cdf(-1)) / 1.5])


def test_limits():
    far = np.array([100.0])
    assert membership(far, far, np.zeros(1), 1.0) == pytest.approx([1.0], abs=0.02)         # as the original: all but α = 1
    assert membership(np.zeros(1), far, np.zeros(1), 1.0) == pytest.approx([0.0], abs=0.02)  # as unseen
    assert membership(np.zeros(1), np.zeros(1), np.zeros(1), 1.0) == pytest.approx([0.5])    # nothing to tell
    gumbel = membership(np.array([-EULER * np.sqrt(6) / np.pi]), np.zeros(1), np.zeros(1), 1.0, law="gumbel")
    assert gumbel == pytest.approx([np.exp(-1)])                                             # a Gumbel law at its mode


def test_membership_rises_with_the_signal():
    signal = np.linspace(-5, 5, 50)
    for law in ("normal", "gumbel"):
        assert (np.diff(membership(signal, np.full(50, 2.0), np.zeros(50), 1.0, law=law)) > 0).all()


@pytest.mark.slow
def test_controls_on_memorised_labels():
    nothing, retrained = world.controls("iam", "iam_completeness")
    assert nothing.high < min(v.low for v in retrained)
    assert nothing.value == pytest.approx(1 - (1 - nothing.per_sample).mean())
