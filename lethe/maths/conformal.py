"""Thresholds with a guaranteed rate of false alarms, from scores of examples that should raise none. Pure functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def threshold(scores: Tensor, alpha: float) -> float:
    """The ⌈(1 − α)(n + 1)⌉-th smallest of n scores; +∞ where there are too few.  [n] -> scalar

    A further score that is exchangeable with them lies above it with a probability of at most α, whatever their distribution.
    threshold([1, …, 19], 0.05) = 19: the 19th of 19, and one more is the largest of 20 with probability 1/20.
    """
    place = math.ceil((1 - alpha) * (len(scores) + 1) - 1e-9)
    return math.inf if place > len(scores) else float(torch.sort(scores).values[place - 1])
