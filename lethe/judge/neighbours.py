"""Neighbours of one model that are as good on retained data: a floor of noise where nothing can be retrained. Hsu, Li, Hu
& Chen (2024), "Dropout-Based Rashomon Set Exploration for Efficient Predictive Multiplicity Estimation", ICLR 2024.

    R(ε) = {θ : L_R(θ) ≤ L_R(θ₀) + ε},   θ = θ₀ ⊙ m,   m ~ N(1, p²) or Bernoulli(1 − p)/(1 − p), one mask per model

θ₀ the original, L_R the mean loss on (at most `LIMIT`) retained examples, p the largest noise on a falling grid at which
half of the masks stay in R(ε). ε = 0.05 nats for classifiers and language models; for other losses twice the standard error of
L_R, beyond which a model is measurably worse. The neighbours lie around one optimum and were all trained with the forget
set: what they differ by only approximates what retraining differs by, and being like them is no sign of forgetting.
Needs:      original, retain.
Cost:       at most 4·`count` forward passes over `LIMIT` examples for each p of the grid (two where p is too large).
Finds:      digits, MLP 64-128-128-10, 900 retained, one original, 8 neighbours beside 8 retrained models: Spearman correlation
            of the per-example sd of the confidence with retraining's 0.87 (Gaussian) and 0.89 (Bernoulli); sd of the mean
            confidence on unseen data 0.65 and 1.08 of retraining's; a fresh retrained model lies in the band of 87 and 94 % of
            the examples (8 retrained: 91 %); 0.1–0.2 s instead of 14 s. With twice the standard error for ε: sd 0.19 and
            0.29 of retraining's, 26 and 33 % in the band: a floor much too low.
Deviations: noise on every weight instead of the outputs of layers (the same for every family).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lethe.core.modules import copied, evaluating
from lethe.core.passes import drawn, rows, sample
from lethe.core.seeds import generator, numpy_generator
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.pools.subject import Subject

GRID = (0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.06, 0.04, 0.03, 0.02, 0.01, 0.005, 0.002, 0.001)   # p
LIMIT = 512   # retained examples by which a neighbour is accepted
MOST = 10**9   # weights of all neighbours together: 4 GB


def neighbours(task: Task, count: int = 8, seed: int = 0, device: str = "cpu", law: str = "gaussian",
               epsilon: float | None = None) -> list[Subject]:
    """`count` neighbours of the original, all at one p; fewer where even the smallest noise rarely stays in R(ε).

    None where the task lacks the original, the retain set or weights that noise could move, and where they would have more
    than `MOST` weights together.
    """
    if not all(task.has(need) for need in ("original", "retain", "weights")):
        return []
    if count * sum(weight.numel() for weight in task.original.parameters()) > MOST:
        return []
    retained = sample(task.retain, LIMIT, numpy_generator(seed, "rashomon"))
    base = losses(task, task.original, retained, device)
    limit = float(base.mean()) + (tolerance(task, base) if epsilon is None else epsilon)
    kept: list[nn.Module] = []
    for p in GRID:
        kept = []
        for k in range(4 * count):
            model = perturbed(task.original, p, generator(seed, "rashomon", k), law)
            if float(losses(task, model, retained, device).mean()) <= limit:   # NaN is not
                kept.append(model)
            if len(kept) == count or k + 1 >= 2 * (len(kept) + 1):
                break   # enough, or fewer than half of the masks stay
        if len(kept) == count:
            break
    return [Subject(f"neighbour {i}", model, task, device=device) for i, model in enumerate(kept)]


def tolerance(task: Task, base: Tensor) -> float:
    """ε: 0.05 nats where the loss is a log-likelihood, else two standard errors of its mean.  base [n]"""
    return 0.05 if "likelihood" in task.provides else 2 * float(base.std()) / math.sqrt(len(base))


def perturbed(model: nn.Module, p: float, rng: torch.Generator, law: str = "gaussian") -> nn.Module:
    """A frozen copy whose weights (parameters of two or more dimensions) are multiplied by one mask of mean 1."""
    twin = copied(model, trainable=False)
    with torch.no_grad():
        for weight in twin.parameters():
            if weight.dim() > 1 and weight.is_floating_point():
                weight.mul_(mask(weight.shape, p, rng, law).to(weight))
    return twin


def mask(shape: torch.Size, p: float, rng: torch.Generator, law: str) -> Tensor:
    """N(1, p²), or Bernoulli(1 − p)/(1 − p)."""
    if law == "gaussian":
        return 1 + p * torch.randn(shape, generator=rng)
    return (torch.rand(shape, generator=rng) >= p).float() / (1 - p)


def losses(task: Task, model: nn.Module, split: Split, device: str = "cpu", batch_size: int = 256) -> Tensor:
    """The loss of each example alone, with the same draws for every model.  -> [n]"""
    model = model.to(device)
    with evaluating(model):
        batches = drawn(task, split, batch_size, ("rashomon",), device=device)
        return rows(lambda batch: task.loss_alone(model, batch).double(), batches, len(split))
