"""Which single layer to move, and how far: the search of SLUG (Cai, Tan & Asif 2024, arXiv:2407.11867)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def importance_and_alignment(forget: Mapping[str, Tensor], retain: Mapping[str, Tensor], weights: Mapping[str, Tensor]
                             ) -> tuple[list[float], list[float]]:
    """I_l = ‖g_l‖/‖W_l‖ and A_l = |cos(g_l, r_l)| of the layers, from the gradients g on F and r on R.

    W = (3, 4), g = (0, 1), r = (1, 1): I = 1/5, A = 1/√2.
    """
    size = [float(g.norm() / weights[name].detach().norm()) for name, g in forget.items()]
    return size, [abs(float(torch.cosine_similarity(g.flatten(), retain[name].flatten(), 0))) for name, g in forget.items()]


def front(importance: list[float], alignment: list[float]) -> list[int]:
    """Positions that no other beats in both (larger importance, smaller alignment), by falling importance.

    importance (3, 2, 1), alignment (0.5, 0.6, 0.1): the second is beaten by the first; [0, 2].
    """
    order = sorted(range(len(importance)), key=lambda i: (-importance[i], alignment[i]))
    found: list[int] = []
    for i in order:
        if not found or alignment[i] < alignment[found[-1]]:
            found.append(i)
    return found


def search(accuracy: Callable[[float], float], start: float, target: float, evaluations: int) -> float:
    """The smallest tried λ with accuracy ≤ target; without one, the λ with the least accuracy.

    Accuracy 1 below λ = 5, else 0, from 1: looks at 1, 2, 4, 8, then 6, 5: λ = 5 after six.
    """
    seen: dict[float, float] = {}
    low, high, at = 0.0, float("inf"), start
    for _ in range(evaluations):
        seen[at] = accuracy(at)
        low, high = (low, at) if seen[at] <= target else (at, high)
        at = 2 * low if high == float("inf") else (low + high) / 2
    enough = [value for value, found in seen.items() if found <= target]
    return min(enough) if enough else min(seen, key=lambda value: (seen[value], value))
