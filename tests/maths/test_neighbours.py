"""Neighbours: inside the ball, on the sphere, and the ones that are best recognised."""

from __future__ import annotations

import pytest
import torch

from lethe.core.split import Batch
from lethe.errors import DataError
from lethe.maths.neighbours import continuous, on_sphere, recognised, within


def test_golden_projection() -> None:
    # (3, 4) has length 5; in the ball of radius 2.5 it is (1.5, 2). What lies inside stays.
    found = within(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.zeros(2, 2), 2.5)
    torch.testing.assert_close(found, torch.tensor([[1.5, 2.0], [0.3, 0.4]]))


def test_random_neighbours_lie_on_the_sphere_in_every_direction() -> None:
    x = torch.full((500, 2, 3), 7.0)
    away = (on_sphere(x, 0.5, torch.Generator().manual_seed(0)) - x).flatten(1)
    torch.testing.assert_close(away.norm(dim=1), torch.full((500,), 0.5), rtol=1e-3, atol=1e-3)
    assert away.mean(0).abs().max() < 0.05


@pytest.mark.parametrize(("radius", "best"), [(0.5, 0.5), (5.0, 2.0)])
def test_the_search_finds_the_least_loss_that_the_ball_allows(radius: float, best: float) -> None:
    """(x − 2)² from 0: the edge of the ball where 2 lies outside, else near 2."""
    weight = torch.ones(1, requires_grad=True)
    x = torch.zeros(3, 1)
    found = recognised(lambda x: (weight * x - 2).square()[:, 0], x, x, radius, 20)
    assert (found - best).abs().max() < 0.32 * (radius > 2) + 1e-5   # half a step of 2.5·5/20 off
    assert weight.grad is None and not found.requires_grad


def test_no_steps_is_the_start() -> None:
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(recognised(lambda x: x.sum(1), start, torch.zeros(4, 3), 0.1, 0), start)


def test_bytes_become_floats_and_tokens_are_refused() -> None:
    index = torch.arange(2)
    assert continuous(Batch({"x": torch.tensor([[0], [255]], dtype=torch.uint8)}, index)).x.tolist() == [[0.0], [1.0]]
    for columns in ({"x": torch.zeros(2, 3, dtype=torch.long)}, {"ids": index}):
        with pytest.raises(DataError, match="continuous"):
            continuous(Batch(columns, index))
