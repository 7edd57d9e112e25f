"""How far two runs may drift apart when only the order of their sums differs: a bound for tests of equality."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

EPSILON = torch.finfo(torch.float32).eps   # 1.2e-7: relative rounding of one operation


def bound(steps: int, tensors: Mapping[str, Tensor]) -> float:
    """steps · ε · ‖θ‖₂: the largest difference of a weight that rounding explains.

    In a step, every weight feels sums over activations and weights whose rounding errors, each ε times what is summed, add
    up at random: to ε times the Euclidean norm of all weights at the most. `steps` such errors are added. A sum that is
    taken in another order (over pieces, processes or stacked models) stays below; a wrong scale of 1 % does not.
    """
    square = sum(float(value.detach().double().square().sum()) for value in tensors.values() if value.is_floating_point())
    return steps * EPSILON * max(square, 1.0) ** 0.5


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest absolute difference over tensors of the same names."""
    assert one.keys() == other.keys()
    return max(float((one[name].detach() - other[name].detach()).abs().max()) for name in one)
