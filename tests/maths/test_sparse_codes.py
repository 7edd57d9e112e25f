"""Sparse codes: the numbers that are kept, what they leave, and the middle of points, by their arithmetic."""

from __future__ import annotations

import pytest
import torch

from lethe.maths.sparse_codes import asked, coded, geometric_median, unexplained


def test_what_is_asked_of_a_state() -> None:
    five, one, two = (torch.tensor([x]) for x in (5.0, 1.0, 2.0))
    assert asked(five, one, two[0], torch.tensor([[3.0], [-1.0]]), torch.tensor([0.0, 1.0])).tolist() == [6, -1]


def test_the_largest_of_each_row_or_of_all() -> None:
    before = torch.tensor([[3.0, 1.0, -1.0], [2.0, 5.0, 4.0]])
    assert coded(before, 1).tolist() == [[3, 0, 0], [0, 5, 0]]
    assert coded(before, 1, "batch").tolist() == [[0, 0, 0], [0, 5, 4]]
    assert coded(before, 9).tolist() == [[3, 1, 0], [2, 5, 4]]   # all of them, and none below 0


def test_what_is_not_explained() -> None:
    x = torch.tensor([[0.0], [2.0]])
    assert float(unexplained(x, torch.tensor([[1.0], [2.0]]))) == pytest.approx(0.5)
    assert float(unexplained(x, torch.tensor([[1.0], [1.0]]))) == pytest.approx(1.0)
    assert float(unexplained(x, x)) == 0


def test_the_middle_of_points() -> None:
    assert float(geometric_median(torch.tensor([[0.0], [1.0], [10.0]]))) == pytest.approx(1.0, abs=1e-3)
    square = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    assert torch.allclose(geometric_median(square), torch.ones(2), atol=1e-4)
