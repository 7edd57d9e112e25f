"""Fréchet distance against the closed form for Gaussians."""

from __future__ import annotations

import math

import pytest
import torch

from lethe.maths.frechet import frechet, frechet_of


def test_golden_in_one_dimension() -> None:
    one = torch.ones(1)
    assert math.isclose(frechet(0 * one, one.view(1, 1), 3 * one, 4 * one.view(1, 1)), 9 + 1 + 4 - 2 * 2)


def test_commuting_covariances_have_a_closed_form() -> None:
    a, b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 4.0, 0.0]).double()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()).Q
    expected = float((a.sqrt() - b.sqrt()).square().sum())   # 1 + 0 + 9
    found = frechet(torch.zeros(3), turn * a @ turn.T, torch.zeros(3), turn * b @ turn.T)
    assert math.isclose(found, expected, rel_tol=1e-5)   # √ of a zero eigenvalue known to 1e-16


def test_samples_of_known_gaussians_and_symmetry() -> None:
    rng = torch.Generator().manual_seed(1)
    p, q = torch.randn(20000, 2, generator=rng), 2 * torch.randn(20000, 2, generator=rng) + 1
    found = frechet_of(p, q)
    assert math.isclose(found, 2 + 2 * (1 - 2) ** 2, rel_tol=0.05)   # ‖μ‖² = 2, (σ_p − σ_q)² twice; sampling error ~1 %
    assert math.isclose(found, frechet_of(q, p), rel_tol=1e-9)
    assert frechet_of(p, p) == pytest.approx(0, abs=1e-9)
