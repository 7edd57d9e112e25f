"""Reconstruction: the deleted example from the difference of two published heads. Bertran et al. 2024, arXiv:2405.20272.

    Least squares with weights W [d, K]: W_o − W_u = C_R⁻¹ x eᵀ after one deletion, e its residual, so
        G = (Ĉ + λI)(W_o − W_u) ≈ x eᵀ:   x̂ = first left singular vector,   label = argmax of the first right one
    Ĉ = mean of x xᵀ over public examples; signs are chosen so that x̂ points to the side of the public mean m.
    reconstruction = cos(r·x̂ − m, x̄_F − m), r the median length of public examples, x̄_F the mean features of F
                     (x itself for one example)

The raw cosine of non-negative features is high for anything (digits: 0.83 for the mean image), hence the centring.
This is about publishing two versions: exact deletion from a convex model reveals the example almost exactly, so
nothing is judged. Noise on the released weights stops it.
Needs:    forget, holdout, original with a linear head.     Cost: one d × K singular value decomposition.
Limits:   features of the original; once the layers below move, the difference of the heads tells of them too.
Finds:    ridge (λ = 1 on XᵀX) onto one-hot labels of 1000 digits, 797 public ones, 200 single deletions: centred cosine 0.95 in
          the median (10th percentile 0.90), label right in 80 %; the best public digit has 0.86. Gaussian noise of 1e-4 on
          each weight leaves 0.65 and 34 %, noise of 1e-3 0.02 and 12 % (the difference has norm 0.025). Least squares on
          diabetes, d = 10: exact second moment 1.000 for all of 300 points, 142 public rows 0.96 in the median.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from lethe.core.config import Positive, config
from lethe.core.evidence import Value
from lethe.core.families.headed import HeadedTask
from lethe.core.registry import Metric, audit
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class Reconstruction:
    """Options of the reconstruction."""

    penalty: Positive = 1e-3   # λ in mean eigenvalues of Ĉ     [ours: digits]


@audit(
    metrics={
        "reconstruction": Metric("centred cosine of the example rebuilt from the heads' difference with the forget mean",
                                 (-1.0, 1.0), "lower"),
    },
    uses={"head", "labels"},
    needs={"forget", "holdout", "original"},
    blind="It uses the last layer only; gradients of deeper layers reveal more about the input.",
)
def measure(cfg: Reconstruction, subject: Subject, panel: Panel) -> list[Value]:
    name = HeadedTask.of(panel.task).head
    heads = [dict(m.model.named_modules()).get(name) for m in (panel.original, subject)]
    before, after = (h.weight.detach().double().cpu().numpy() if isinstance(h, nn.Linear) else None for h in heads)
    if before is None or after is None or before.shape != after.shape or np.array_equal(before, after):
        return []
    public, truth = panel.original.features(panel.task.holdout), panel.original.features(panel.task.forget).mean(0)
    rebuilt, label = reconstruct((before - after).T, second_moment(public, cfg.penalty), public.mean(0))
    centre = public.mean(0)
    best = max(cosine(x - centre, truth - centre) for x in public)
    return [Value("reconstruction", centred_cosine(rebuilt, truth, public), n=len(panel.task.forget),
                  detail={"label": label, "best_public": best})]


def second_moment(x: np.ndarray, penalty: float) -> np.ndarray:
    """Mean of x xᵀ + λI, λ = penalty · mean eigenvalue.  [n, d] -> [d, d]"""
    moment = x.T @ x / len(x)
    shrunk: np.ndarray = moment + penalty * np.trace(moment) / len(moment) * np.eye(len(moment))
    return shrunk


def reconstruct(delta: np.ndarray, moment: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, int]:
    """(x̂ of unit length on the side of the mean, label) from W_o − W_u and the second moment.  [d, K], [d, d], [d] -> [d]"""
    u, _, vt = np.linalg.svd(moment @ delta, full_matrices=False)
    side = 1.0 if u[:, 0] @ mean >= 0 else -1.0
    return side * u[:, 0], int((side * vt[0]).argmax())


def centred_cosine(rebuilt: np.ndarray, truth: np.ndarray, public: np.ndarray) -> float:
    """Cosine after centring at the public mean, `rebuilt` brought to a usual length.  [d], [d], [n, d]"""
    centre, length = public.mean(0), float(np.median(np.linalg.norm(public, axis=1)))
    return cosine(rebuilt * length / max(float(np.linalg.norm(rebuilt)), 1e-30) - centre, truth - centre)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """[d], [d] -> scalar; 0 where one of them is 0."""
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else 0.0
