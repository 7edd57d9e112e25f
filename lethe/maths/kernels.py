"""Gaussian processes with a record in and out: leave-one-out distinguishability in closed form. Ye, Borovykh, Hayou & Shokri
(2024), arXiv:2309.17310.

    μ_D(Q) = K_QD (K_DD + σ²)⁻¹ y,   Σ_D(Q) = K_QQ − K_QD (K_DD + σ²)⁻¹ K_DQ
    with S added: μ' = μ + Σ_D(Q, S) (Σ_D(S) + σ²)⁻¹ (y_S − μ_D(S)),   Σ' = Σ − Σ_D(Q, S) (Σ_D(S) + σ²)⁻¹ Σ_D(S, Q)
    leave-one-out from M = (K_DD + σ²)⁻¹, a = My:  μ_{−i}(x_i) = y_i − a_i/M_ii,  Σ_{−i}(x_i) = 1/M_ii − σ²
    leave-set-out:  μ_{−S}(S) = y_S − M_SS⁻¹ a_S,   Σ_{−S}(S) = M_SS⁻¹ − σ²

Targets y [n, C], C outputs that share the kernel; of classes centred one-hot rows (`targets`). Float64, Cholesky.
A Gaussian process stands for the randomness of training, not for the network at hand: rank with it, do not certify with it.
Features of a network that was trained with S know S already and make it look less distinguishable than it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]   # [n, d], [m, d] -> [n, m]


def linear(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """xᵀz/d."""
    kernel: np.ndarray = x @ z.T / x.shape[1]
    return kernel


def rbf(width: float) -> Kernel:
    """exp(−‖x − z‖²/(2·width²))."""
    def kernel(x: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(-squared_distances(x, z) / (2 * width**2)))

    return kernel


def relu_network(depth: int, bias: float = 0.1) -> Kernel:
    """The NNGP of an infinitely wide ReLU network of `depth` hidden layers: arc-cosine kernel, weight variance 2.

    One layer: K' = 2·E[relu(u) relu(v)] + bias = s(sin θ + (π − θ) cos θ)/π + bias, s = √(K_xx K_zz), θ their angle.
    """
    def kernel(x: np.ndarray, z: np.ndarray) -> np.ndarray:
        xx, zz, xz = ((x**2).mean(1) + bias, (z**2).mean(1) + bias, linear(x, z) + bias)
        for _ in range(depth):
            scale = np.sqrt(np.outer(xx, zz))
            cosine = np.clip(xz / np.maximum(scale, 1e-300), -1, 1)
            angle = np.arccos(cosine)
            xz = scale * (np.sin(angle) + (np.pi - angle) * cosine) / np.pi + bias
            xx, zz = xx + bias, zz + bias      # θ = 0 keeps the variance
        return xz

    return kernel


def squared_distances(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """‖x_i − z_j‖², never below 0.  [n, d], [m, d] -> [n, m]"""
    return np.asarray(np.maximum((x**2).sum(1)[:, None] + (z**2).sum(1) - 2 * x @ z.T, 0))


def median_width(x: np.ndarray, limit: int = 1000) -> float:
    """Median distance between two different examples, of the first `limit`."""
    some = x[:limit]
    return float(np.sqrt(np.median(squared_distances(some, some)[np.triu_indices(len(some), 1)]))) or 1.0


def targets(y: np.ndarray, classes: int) -> np.ndarray:
    """One-hot rows less 1/C: centred, so that the prior mean 0 is "no idea".  [n] -> [n, C]"""
    targets: np.ndarray = np.eye(classes)[y] - 1 / classes
    return targets


def joint_targets(first: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Targets of two sets together: centred one-hot rows of class numbers, or real ones in units of the rest's deviation.

    [m] or [m, h], [n] or [n, h] -> [m + n, C]
    """
    y = np.concatenate([first, rest])
    if y.ndim == 1 and y.dtype.kind != "f":
        return targets(y, int(y.max()) + 1)
    y, kept = y.reshape(len(y), -1).astype(float), rest.reshape(len(rest), -1).astype(float)
    return np.asarray((y - kept.mean(0)) / np.maximum(kept.std(0), 1e-12))


@dataclass
class Posterior:
    """A Gaussian process after seeing D: M = (K_DD + σ²)⁻¹ and a = My, one factorisation for all questions below."""

    x: np.ndarray        # [n, d]
    y: np.ndarray        # [n, C]
    kernel: Kernel
    noise: float         # σ²
    root: np.ndarray     # lower Cholesky factor of K_DD + σ² [n, n]
    weights: np.ndarray  # a [n, C]

    @cached_property
    def inverse(self) -> np.ndarray:
        """M, for questions about all records: six times the work of the factor.  [n, n]"""
        return _solved(self.root, np.eye(len(self.x)))

    def columns(self, s: np.ndarray) -> np.ndarray:
        """The columns of M of the records s (positions).  [n, m]"""
        return _solved(self.root, np.eye(len(self.x))[:, s])

    def mean(self, q: np.ndarray) -> np.ndarray:
        """μ_D(q).  [m, C]"""
        return np.asarray(self.kernel(q, self.x) @ self.weights)

    def covariance(self, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Σ_D(q, r).  [m, l]"""
        return np.asarray(self.kernel(q, r) - self.kernel(q, self.x) @ self.inverse @ self.kernel(self.x, r))

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance at every record of the process without it.  [n, C], [n]"""
        own = np.diag(self.inverse)
        return self.y - self.weights / own[:, None], 1 / own - self.noise

    def without(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance at the records s (positions) of the process without all of them.  [m, C], [m, m]"""
        block = np.linalg.inv(self.columns(s)[s])
        return self.y[s] - block @ self.weights[s], block - self.noise * np.eye(len(s))

    def added(self, q: np.ndarray, s: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How mean and covariance at q change when records (s, y) are added.  [m, C], [m, m]"""
        cross = self.covariance(q, s)
        gain = np.linalg.solve(self.covariance(s, s) + self.noise * np.eye(len(s)), cross.T).T
        return gain @ (y - self.mean(s)), -gain @ cross.T


def posterior(x: np.ndarray, y: np.ndarray, kernel: Kernel, noise: float = 1e-2) -> Posterior:
    """Fit; σ² = noise · mean of the kernel's diagonal.  [n, d], [n, C]"""
    gram = kernel(x, x)
    level = noise * float(np.diag(gram).mean())
    root = np.linalg.cholesky(gram + level * np.eye(len(gram)))
    return Posterior(x, y, kernel, level, root, _solved(root, y))


def _solved(root: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(LLᵀ)⁻¹ right.  [n, n] lower, [n, m] -> [n, m]"""
    from scipy.linalg import cho_solve

    return np.asarray(cho_solve((root, True), right, check_finite=False))


def fitted(x: np.ndarray, y: np.ndarray, noise: float) -> Posterior:
    """The process of an RBF kernel whose width is the median distance.  [n, d], [n, C]"""
    return posterior(x, y, rbf(median_width(x)), noise)


def gaussian_kl(mean: np.ndarray, cov: np.ndarray, other: np.ndarray, other_cov: np.ndarray) -> float:
    """KL(N(mean, cov) ‖ N(other, other_cov)) summed over C outputs of one covariance.  [m, C], [m, m]

    ½[C(log|Σ'| − log|Σ| − m + tr Σ'⁻¹Σ) + Σ_c Δᵀ Σ'⁻¹ Δ], log-determinants by Cholesky.
    """
    root, other_root = np.linalg.cholesky(cov), np.linalg.cholesky(other_cov)
    ratio, shift = np.linalg.solve(other_root, root), np.linalg.solve(other_root, other - mean)
    logs = 2 * (np.log(np.diag(other_root)).sum() - np.log(np.diag(root)).sum())
    return float(0.5 * (mean.shape[1] * (logs - len(cov) + (ratio**2).sum()) + (shift**2).sum()))


def lood_mean(fit: Posterior, s: np.ndarray | None = None) -> np.ndarray:
    """‖μ_D(x_i) − μ_{−i}(x_i)‖ for every record, or those of s, at itself: how much its presence shows.  [n] or [m]

    μ_D(x_i) = y_i − σ²a_i, so the difference is (1/M_ii − σ²)·a_i.
    """
    own, weights = (fit.inverse, fit.weights) if s is None else (fit.columns(s)[s], fit.weights[s])
    return np.asarray(np.linalg.norm(weights, axis=1) * (1 / np.diag(own) - fit.noise))


def lood_kl(fit: Posterior) -> np.ndarray:
    """KL(without i ‖ with i) of the noisy output at x_i, for every record.  [n]"""
    before, after = 1 / np.diag(fit.inverse), 2 * fit.noise - fit.noise**2 * np.diag(fit.inverse)   # both with σ² of the output
    divergence: np.ndarray = 0.5 * (fit.y.shape[1] * (np.log(after / before) - 1 + before / after) + lood_mean(fit) ** 2 / after)
    return divergence


def lood_set(fit: Posterior, s: np.ndarray) -> np.ndarray:
    """‖μ_D(x_i) − μ_{−S}(x_i)‖ for the records of a set that is left out as a whole.  [m]"""
    return np.asarray(np.linalg.norm(fit.y[s] - fit.noise * fit.weights[s] - fit.without(s)[0], axis=1))


def hidden_by_others(fit: Posterior, s: np.ndarray) -> np.ndarray:
    """Joint over single LOOD of each record of a set: how much its companions in the set hide it. 1: not at all.  [m]

    Two equal records have tiny single and large joint LOOD: deleting only one of them deletes nothing.
    """
    ratio: np.ndarray = lood_set(fit, s) / np.maximum(lood_mean(fit, s), 1e-12)
    return ratio


def twins(x: np.ndarray, others: np.ndarray, kernel: Kernel, gap: float = 1e-3) -> np.ndarray:
    """Which x have another record as good as equal to them: kernel above 1 − gap of its own.  [n, d], [m, d] -> [n] bool"""
    return np.asarray(equal(x, others, kernel, gap).any(1))


def equal(x: np.ndarray, others: np.ndarray, kernel: Kernel, gap: float = 1e-3) -> np.ndarray:
    """Which pairs are as good as equal, see `twins`.  [n, d], [m, d] -> [n, m] bool"""
    own = np.array([float(kernel(row[None], row[None])[0, 0]) for row in x])
    return np.asarray(kernel(x, others) > (1 - gap) * own[:, None])


def most_telling(
    fit: Posterior, s: np.ndarray, y: np.ndarray, start: np.ndarray, steps: int = 200, rate: float = 0.05
) -> np.ndarray:
    """The query at which adding one record (s [d], y [C]) changes the mean most: ascent of ‖Δμ(q)‖² from `start` [d].

    Numerical gradients, normalised steps that shrink linearly. For usual kernels it ends at or along the record itself.
    """
    q = start.astype(float).copy()

    def shift(points: np.ndarray) -> np.ndarray:
        return np.asarray((fit.added(points, s[None], y[None])[0] ** 2).sum(1))

    for step in range(steps):
        width = 1e-4 * max(float(np.abs(q).max()), 1.0)
        moves = width * np.eye(len(q))
        gradient = (shift(q + moves) - shift(q - moves)) / (2 * width)
        norm = np.linalg.norm(gradient)
        if norm == 0:
            break
        q = q + rate * (1 - step / steps) * gradient / norm * max(float(np.linalg.norm(start)), 1.0)
    return q
