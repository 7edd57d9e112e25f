"""Ridge regression in closed form: what probes and attacks fit. Pure numpy, float64."""

from __future__ import annotations

import numpy as np

PENALTIES = tuple(10.0**p for p in range(-5, 3))


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """(W, b) of min ‖XW + b − Y‖² + λ‖W‖² with λ = penalty · mean eigenvalue of the centred XᵀX.  [n, d], [n, k]"""
    mean, level = x.mean(0), y.mean(0)
    centred = x - mean
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += penalty * max(np.trace(gram) / len(gram), 1e-12)
    w = np.linalg.solve(gram, centred.T @ (y - level))
    return w, level - mean @ w


def ridge_gcv(
    x: np.ndarray, y: np.ndarray, penalties: tuple[float, ...] = PENALTIES
) -> tuple[np.ndarray, np.ndarray, float]:
    """(W, b, penalty) with the penalty of least GCV(λ) = n‖Y − Ŷ‖² / (n − 1 − Σ s²/(s² + λ))², all from one SVD.

    Generalised cross-validation: Golub, Heath & Wahba 1979. The 1 is the mean.  [n, d], [n, k] -> [d, k], [k]
    """
    mean, level = x.mean(0), y.mean(0)
    u, s, vt = np.linalg.svd(x - mean, full_matrices=False)
    target = u.T @ (y - level)                                # [r, k]
    outside = float(((y - level) ** 2).sum() - (target**2).sum())
    unit = max(float((s**2).sum()) / x.shape[1], 1e-12)

    def gcv(penalty: float) -> float:
        kept = penalty * unit / (s**2 + penalty * unit)       # share of each direction that stays in the residual
        residual = outside + float(((kept[:, None] * target) ** 2).sum())
        return len(x) * residual / max(len(x) - 1 - float((1 - kept).sum()), 1e-9) ** 2

    best = min(penalties, key=gcv)
    w = vt.T @ ((s / (s**2 + best * unit))[:, None] * target)
    return w, level - mean @ w, best


def one_hot(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """1 where the label is the class.  [n], [k] -> [n, k]"""
    targets: np.ndarray = (labels[:, None] == classes[None]).astype(float)
    return targets


def cross_fitted(x: np.ndarray, y: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Each example's prediction by a ridge (GCV) fitted on the other folds, each with the same share of every y.  -> [n]

    With folds of unequal shares the held-out mean falls when the fitted one rises, and chance has an AUC below 0.5.
    """
    fold = np.empty(len(y), dtype=int)
    for value in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == value))
        fold[rows] = np.arange(len(rows)) % folds
    predictions = np.empty(len(y))
    for k in range(folds):
        w, b, _ = ridge_gcv(x[fold != k], y[fold != k, None])
        predictions[fold == k] = (x[fold == k] @ w + b)[:, 0]
    return predictions
