"""Audits of audits: which metric can be trusted. Dorna et al. 2025, arXiv:2506.12618 (OpenUnlearning); arXiv:2605.24614 (2026).

    faithfulness  AUC of the metric between models that have the knowledge and models that have not
    R  = 1 − |Δ_u − Δ_r| / (|Δ_u| + |Δ_r|),   Δ = metric after − before relearning, unlearned and retrained model
    Q  = 1 − |after − before| / (|after| + |before|),   before and after a change that teaches nothing (4-bit weights)
    robustness = H(R, Q),   overall = H(faithfulness, robustness),   H the harmonic mean

No run computes these: check a new audit against them (as `tests/maths/test_meta.py` does for published numbers).
All in [0, 1], 1 is best. R and Q penalise both directions: a metric that the change destroys is no better than one that it
revives. For metrics that fall with knowledge pass 1 − metric.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lethe.maths.statistics import auc_interval

Floats = Sequence[float] | np.ndarray


def harmonic_mean(values: Floats) -> float:
    """Their number over the sum of their inverses; 0 as soon as one is 0 or less."""
    x = np.asarray(values, dtype=float)
    return float(len(x) / (1 / x).sum()) if (x > 0).all() else 0.0


def faithfulness(knows: Floats, without: Floats) -> tuple[float, float, float]:
    """(AUC, low, high) of a metric that grows with knowledge, over models that know and models that do not.  [m], [n]"""
    return auc_interval(knows, without)


def relearning_robustness(before: Floats, after: Floats, retrained_before: float, retrained_after: float) -> float:
    """R, mean over unlearned models; 1 for a model that moves as the retrained one does.  [m], [m] -> scalar"""
    moved = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    return float(_agreement(moved, np.full(len(moved), retrained_after - retrained_before)).mean())


def perturbation_robustness(before: Floats, after: Floats) -> float:
    """Q, mean over models.  [m], [m] -> scalar"""
    return float(_agreement(np.asarray(after, dtype=float), np.asarray(before, dtype=float)).mean())


def overall(faithful: float, relearning: float, perturbation: float) -> float:
    """H(faithfulness, H(R, Q))."""
    return harmonic_mean([faithful, harmonic_mean([relearning, perturbation])])


def _agreement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 − |x − y| / (|x| + |y|), 1 where both are 0, 0 where their signs differ.  [m], [m] -> [m]"""
    size = np.abs(x) + np.abs(y)
    return np.where(size > 0, 1 - np.abs(x - y) / np.where(size > 0, size, 1), 1.0)
