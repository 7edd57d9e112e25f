"""Shards, slices and sequences: what exact methods train on what, what survives a deletion, and how long a service lasts.

Bourtoule et al. (2021), arXiv:1912.03817 (shards and slices); Chowdhury et al. (2025), arXiv:2406.16257 (sequences). No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from lethe.core.seeds import derive
from lethe.errors import RequestError

Sequences = list[list[int]]
STEEPNESS = 100   # t of the score: how strongly likely deletions are kept away from the front   [official code]


def place(key: str, shards: int, slices: int, seed: int) -> tuple[int, int]:
    """(shard, slice) of a record, by a hash of its key alone: it does not depend on which other records there are."""
    return divmod(derive(seed, "place", key) % (shards * slices), slices)


def cyclic(slices: int, budget: int) -> Sequences:
    """Rotations, each with another slice first, for slices equally likely to be hit. cyclic(3, 2) == [[0, 1, 2], [2, 0, 1]]"""
    return [[(i - b) % slices for i in range(slices)] for b in range(budget)]


def matched(probabilities: Sequence[float], budget: int, steepness: int = STEEPNESS) -> Sequences:
    """Bipartite maximum-weight matching (BMS), position by position: each sequence gets another slice that it lacks, so that
    Σ n·(1 − c)^t is largest, c the probability that one of its first n slices is hit, t the steepness.

    Weights below 1e-12 of the largest count as equal, and equal ones go in order.
    matched((.4, .3, .2, .1), 4) == [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]
    """
    from scipy.optimize import linear_sum_assignment

    p = np.asarray(probabilities, dtype=float)
    p = p / p.sum()
    sequences: Sequences = [[] for _ in range(budget)]
    for n in range(1, len(p) + 1):
        weight = np.full((budget, len(p)), -np.inf)
        for i, sequence in enumerate(sequences):
            for j in set(range(len(p))) - set(sequence):
                weight[i, j] = n * max(0.0, 1 - p[sequence].sum() - p[j]) ** steepness
        allowed = np.isfinite(weight)
        largest = weight[allowed].max()
        scaled = np.where(allowed, weight / largest if largest > 0 else 0.0, -len(p) * budget)
        scaled += 1e-12 * np.outer(np.arange(budget), np.arange(len(p)))
        for i, j in zip(*linear_sum_assignment(scaled, maximize=True), strict=True):
            sequences[i].append(int(j if allowed[i, j] else weight[i].argmax()))   # none is left for it alone: the best
    return sequences


def groups(layers: Sequence[str], slices: int) -> list[list[str]]:
    """Layers of each stage, the top ones first; with fewer layers than stages they are gone round again.

    groups(["l1", "l2", "l3"], 2) == [["l2", "l3"], ["l1"]]
    """
    if len(layers) < slices:
        return [[layers[-1 - t % len(layers)]] for t in range(slices)]
    size, more = divmod(len(layers), slices)
    sizes = [size + (t < more) for t in range(slices)]
    ends = [len(layers) - sum(sizes[:t]) for t in range(slices)]
    return [list(layers[end - size : end]) for end, size in zip(ends, sizes, strict=True)]


def sequences(slices: int, budget: int, order: Literal["cyclic", "matched"] = "cyclic", probabilities: Sequence[float] = ()
              ) -> Sequences:
    """The orders in which the slices of a shard are learnt, `budget` of them. RequestError where that has no meaning."""
    if budget > slices:
        raise RequestError(f"method.budget = {budget} exceeds method.slices = {slices}: with every slice first once, "
                           "more sequences serve no longer; nothing was trained. Lower the budget.")
    if (order == "matched") != (len(probabilities) == slices):
        raise RequestError(f"method.order = {order!r} with {len(probabilities)} probabilities for {slices} slices; "
                           "nothing was trained. Set one per slice with order: matched, and none with cyclic.")
    return matched(probabilities, budget) if order == "matched" else cyclic(slices, budget)


def prefix(sequence: Sequence[int], hit: Iterable[int]) -> int:
    """How many slices stand before the first that was hit."""
    gone = set(hit)
    return next((n for n, one in enumerate(sequence) if one in gone), len(sequence))


def longest(sequences: Sequence[Sequence[int]], hit: Iterable[int]) -> tuple[int, int]:
    """(sequence, length) of the longest surviving prefix, the first among equals; length 0: nothing survives."""
    lengths = [prefix(sequence, hit) for sequence in sequences]
    best = int(np.argmax(lengths))
    return best, lengths[best]


def expected_deletions(shards: int, slices: int, budget: int) -> float:
    """Mean number of uniform deletions until no shard has a prefix: m·L·H(m·min(B, L)), H(n) = 1 + 1/2 + … + 1/n.

    A shard is dead when the first slice of each of its sequences is hit; these are m·min(B, L) of m·L coupons.
    expected_deletions(5, 4, 1) == 20·(1 + 1/2 + 1/3 + 1/4 + 1/5) == 45.67
    """
    return shards * slices * sum(1 / n for n in range(1, shards * min(budget, slices) + 1))


def deletions_served(sequences: Sequence[Sequence[int]], shards: int, rng: np.random.Generator,
                     probabilities: Sequence[float] | None = None) -> int:
    """One simulated service: single deletions hit slices of uniform shards until nothing survives in any shard."""
    slices = len(sequences[0])
    hit: list[set[int]] = [set() for _ in range(shards)]
    alive, served = set(range(shards)), 0
    while alive:
        shard, one = int(rng.integers(shards)), int(rng.choice(slices, p=probabilities))
        served += 1
        if one not in hit[shard]:
            hit[shard].add(one)
            if not longest(sequences, hit[shard])[1]:
                alive.discard(shard)
    return served
