"""Unlearnable clusters by hand: centres, perturbations within their bound, and bytes that stay within it."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.maths.unlearnable import drawing, k_means, nearest_centre
from lethe.work.protect import stored


def test_k_means_finds_what_lies_apart() -> None:
    rng = torch.Generator().manual_seed(0)
    places = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    points = places.repeat(20, 1) + 0.1 * torch.randn(60, 2, generator=rng)
    centres = k_means(points, 3, rng)
    assert torch.cdist(places, centres).amin(1).max() < 0.1
    assert nearest_centre(points, centres).bincount().tolist() == [20, 20, 20]


def test_equal_points_do_not_break_it() -> None:
    assert torch.isfinite(k_means(torch.ones(5, 2), 3, torch.Generator().manual_seed(0))).all()


def test_a_perturbation_draws_features_to_the_centre_within_its_bound() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(20, 1, 2, 2, generator=rng)
    delta = drawing(lambda images: 10 * images.flatten(1), x, torch.tensor([9.0, 0, 0, 0]), 0.25, 40, rng)
    assert delta.shape == (1, 1, 2, 2) and delta.abs().max() <= 0.25
    assert delta.flatten()[0] > 0.2 and (delta.flatten()[1:] < 0).all()   # the first pixel up, the others down


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(0.005, 0.5), st.booleans())
def test_bytes_never_leave_the_bound(seed: int, bound: float, whole: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(4, 1, 3, 3, generator=rng)
    x = (255 * x).to(torch.uint8).float() / 255 if whole else x
    made = stored(x, bound * (2 * torch.rand(x.shape, generator=rng) - 1), bound)
    # where no byte lies within the bound (bound < half a grey level off the grid) the nearest one is within one level
    assert ((made.float() / 255 - x).abs() <= bound + (1e-4 if whole else 1 / 255)).all()
