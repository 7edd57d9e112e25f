"""Answers of different lengths, side by side: the values that the docstrings state."""

from __future__ import annotations

import torch

from lethe.maths.answers import after_the_first, answered, counted, mean_over


def test_golden() -> None:
    assert counted(torch.tensor([1, 3]), 3).tolist() == [[True, False, False], [True, True, True]]
    assert after_the_first(torch.tensor([1, 3]), 3).tolist() == [[True, False, False], [False, True, True]]
    assert mean_over(torch.tensor([[4.0, 9.0], [1.0, 3.0]]), torch.tensor([1, 2])).tolist() == [4.0, 2.0]
    labels = torch.tensor([[-100, -100, 5], [-100, 7, 8]])
    assert answered(labels, torch.tensor([1, 2]), 2).tolist() == [[5, 0], [7, 8]]
