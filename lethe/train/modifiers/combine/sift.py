"""The largest singular directions of the forget term's momentum and of the others', made orthogonal to each other: a Muon step.

SIFT (2026, official code OPTML-Group/SIFT, its unlearning with RMU, variant 1), after Muon, Jordan et al. 2024. For a matrix θ
with momenta M_f, M_r (Nesterov), each M ≈ U S Vᵀ with its k largest singular values:

    θ ← θ − η·√max(1, rows/columns) · msign [U_r, U_f] · (msign [V_r, V_f])ᵀ,    msign A = P Qᵀ where A = P Σ Qᵀ

so that no direction of one term is one of the other's, and all count the same. Vectors take a step along their summed momentum
divided by its length, which is msign of one column. η has another scale than with Adam: no singular value of a step exceeds η
times the root. Needs singular values of every matrix that moves, per step: choose few (`where`), as RMU does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, config
from lethe.train.modifiers.combine import Apply, Ask, Combine, Gradients, Memory, sides


@config
class Sift:
    first: str = "forget"       # one of the two sides; without a term of this name, the first [e.g. retain]
    momentum: Fraction = 0.95   # of each side                                            [official code]
    rank: Count = 256           # k, at most half of what a matrix has                    [official code]

    takes_steps: ClassVar[bool] = True

    def recalling(self, params: Mapping[str, nn.Parameter], memory: Memory) -> Combine:
        return _Recalling(self, params, memory)


def msign(matrix: Tensor) -> Tensor:
    """P Qᵀ of P Σ Qᵀ: all singular values become 1.  [m, n] -> [m, n]

    msign([[3, 0], [0, −2]]) == [[1, 0], [0, −1]].
    """
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    polar: Tensor = left @ right
    return polar


def direction(others: Tensor, own: Tensor, rank: int) -> Tensor:
    """The step for two momenta of one tensor; more than two dimensions count as rows and the rest.  2 × [...] -> [...]

    direction(diag(2, 0), diag(0, −3), 1) == diag(1, −1): either keeps its direction, at the same size.
    """
    if own.dim() < 2:
        both = (others + own).float()
        unit: Tensor = both / both.norm().clamp(min=1e-30)
        return unit.to(own.dtype)
    sides = [side.flatten(1).float() for side in (others, own)]
    rows, columns = sides[0].shape
    k = max(1, min(rank, min(rows, columns) // 2))
    parts = [torch.linalg.svd(side, full_matrices=False) for side in sides]
    left = msign(torch.cat([u[:, :k] for u, _, _ in parts], 1))
    right = msign(torch.cat([vh[:k].T for _, _, vh in parts], 1))
    step: Tensor = max(1.0, rows / columns) ** 0.5 * left @ right.T
    return step.reshape(own.shape).to(own.dtype)


@dataclass(frozen=True)
class _Recalling:
    """The same with the momenta of one run."""

    cfg: Sift
    params: Mapping[str, nn.Parameter]
    memory: Memory

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        if len(terms) < 2:
            return apply(gradients(terms))
        own, others = sides(terms, self.cfg.first)
        mine = self._momenta("own", gradients(own))
        theirs = self._momenta("others", gradients(others))
        apply([direction(b, a, self.cfg.rank) for a, b in zip(mine, theirs, strict=True)])

    def _momenta(self, side: str, found: Gradients) -> Gradients:
        """g + μ·B with B ← μ·B + g: Nesterov's."""
        made = []
        for name, g in zip(self.params, found, strict=True):
            key = f"{side}/{name}"
            self.memory[key] = self.cfg.momentum * self.memory.get(key, torch.zeros_like(g)) + g
            made.append(g + self.cfg.momentum * self.memory[key])
        return made
