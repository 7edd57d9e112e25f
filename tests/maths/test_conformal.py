"""Conformal thresholds: known values, and the promised rate on data of any distribution."""

from __future__ import annotations

import math

import pytest
import torch

from lethe.maths.conformal import threshold


def test_known_values() -> None:
    assert threshold(torch.arange(1.0, 20), 0.05) == 19 and threshold(torch.arange(1.0, 20), 0.1) == 18
    assert threshold(torch.arange(1.0, 19), 0.05) == math.inf


@pytest.mark.parametrize("alpha", [0.05, 0.1])
def test_the_rate_of_false_alarms_holds(alpha: float) -> None:
    """4,000 draws of 40 heavy-tailed scores and one more: at most α of them are above, and not far less."""
    scores = torch.randn(4000, 41, generator=torch.Generator().manual_seed(0)).exp()
    rate = sum(float(row[40]) > threshold(row[:40], alpha) for row in scores) / 4000
    assert alpha - 0.03 < rate < alpha + 2 * math.sqrt(alpha / 4000)
