"""Bi-level selection: weights of a forget set against unlearning by sign-SGD; `worst_case` and `easiest` differ in its sign.

min_w Σ_i w_i ℓ_i(θ_u(w)) + γ‖w‖² over 0 ≤ w ≤ 1, Σ w_i = m; θ_u(w) = sign-SGD steps from θ_0 on Σ (1 − w_i) ℓ_i.
The derivative of a sign is zero, so the gradient in w is ℓ_i + 2γw_i. Every round starts again at θ_0; w is projected by
bisection; the m largest are taken. Fan, Liu, Hero & Liu (2024), arXiv:2403.07362.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lethe.core.config import Count, Fraction, NonNegative, Positive, config
from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.pools.choose import Scored
from lethe.pools.choose._losses import losses


@config
class Bilevel:
    """Options of the bi-level selection, of `worst_case` and `easiest`."""

    count: Count                  # m, examples to choose
    rounds: Count = 8             # upper rounds at most                                     [official code: 2–20]
    steps: Count = 10             # sign-SGD steps of a round                                [official code: 2–10]
    lr: Positive = 1e-3           # length of a sign step                                    [official code]
    weight_lr: Positive = 0.3     # η, step of w                                             [ours, digits; official 0.01]
    gamma: NonNegative = 0.0      # γ, weight of ‖w‖²                                        [official code]
    settled: Fraction = 0.95      # stop when two rounds share this part of the m chosen     [ours]
    batch_size: Count = 64        # examples per sign step                                   [ours]
    seed: int = 0


def selected(cfg: Bilevel, task: Task, train: Split, allowed: np.ndarray, sign: float) -> Scored:
    """w after the last round; equal w are ordered by the loss of that round."""
    free = torch.from_numpy(allowed)
    weights = torch.where(free, cfg.count / int(free.sum()), 0.0).double()
    top, overlap, done = np.zeros(0, dtype=int), 0.0, 0
    for done in range(1, cfg.rounds + 1):
        loss = after_unlearning(task, train, weights, cfg, done)
        moved = weights - cfg.weight_lr * (sign * loss + 2 * cfg.gamma * weights)
        weights = torch.zeros_like(weights)
        weights[free] = capped_simplex(moved[free], cfg.count)
        scores = (weights - 1e-9 * (sign * loss).argsort().argsort() / len(loss)).numpy()   # ties: the loss decides
        new = np.argsort(-np.where(allowed, scores, -np.inf), kind="stable")[: cfg.count]
        overlap, top = len(np.intersect1d(top, new)) / cfg.count, new
        if overlap >= cfg.settled:
            break
    return scores, {"rounds": done, "overlap of the last two": round(overlap, 3)}


def after_unlearning(task: Task, train: Split, weights: Tensor, cfg: Bilevel, number: int) -> Tensor:
    """ℓ_i(θ_u(w)) after `steps` sign-SGD steps on Σ (1 − w_i) ℓ_i from the original, dropout off, batch norm frozen.  -> [n]"""
    model = task.copy_of_original().eval()
    params = list(task.trainable(model).values())
    for step in range(cfg.steps):
        rng = generator(cfg.seed, "worst case", number, step)
        batch = train.batch(torch.randperm(len(train), generator=rng)[: cfg.batch_size])
        objective = ((1 - weights[batch.index]) * task.nll(model, task.draw(batch, rng, False))).mean()
        gradients = torch.autograd.grad(objective, params, allow_unused=True)
        with torch.no_grad():
            for p, gradient in zip(params, gradients, strict=True):
                if gradient is not None:
                    p.sub_(cfg.lr * gradient.sign())
    return losses(task, model, train)


def capped_simplex(v: Tensor, total: float) -> Tensor:
    """The nearest point to v with 0 ≤ w ≤ 1 and Σ w = total: clip(v − μ, 0, 1), μ by bisection.  [n] -> [n]

    capped_simplex([2, 1, 0], 1) == [1, 0, 0]; capped_simplex([.5, .5, 0], 1) == [.5, .5, 0].
    """
    low, high = v.min() - 1, v.max()
    for _ in range(100):
        middle = (low + high) / 2
        if (v - middle).clamp(0, 1).sum() > total:
            low = middle
        else:
            high = middle
    return (v - (low + high) / 2).clamp(0, 1)
