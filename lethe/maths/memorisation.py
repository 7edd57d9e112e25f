"""How much of a text a model can say by itself, from its greedy predictions under teacher forcing.

Carlini et al. 2021, arXiv:2012.07805 (extraction); Dorna et al. 2025, arXiv:2506.12618 (OpenUnlearning, whose
definitions these are).
Arrays are [n, T]: `right` where the arg-max is the true token, `inside` where a token counts (not the end token).
"""

from __future__ import annotations

from torch import Tensor


def extraction_strength(right: Tensor, inside: Tensor) -> Tensor:
    """Length of the longest all-right suffix over the length L.  [n, T], [n, T] -> [n]

    The share of the answer that follows from the rest of it: 1 − k/L, k the shortest prefix that has to be given.
    All right: 1; last token wrong: 0; only the first wrong: 1 − 1/L. 0 where L = 0.
    """
    unbroken = (right | ~inside).flip(1).cumprod(1).flip(1).bool() & inside
    return unbroken.sum(1) / inside.sum(1).clamp(min=1)


def extraction_strength_floored(right: Tensor, inside: Tensor) -> Tensor:
    """`extraction_strength`, at least 1/L: OpenUnlearning's values, whose search never tries k = L.  -> [n]"""
    length = inside.sum(1)
    return extraction_strength(right, inside).maximum((length > 0) / length.clamp(min=1))


def exact_memorisation(right: Tensor, inside: Tensor) -> Tensor:
    """Share of the tokens that are predicted, each given the true ones before it.  [n, T], [n, T] -> [n]"""
    return (right & inside).sum(1) / inside.sum(1).clamp(min=1)
