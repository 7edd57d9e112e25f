"""LOOD targets: estimate by a Gaussian process what a model that never saw the forgotten examples would answer, and teach that.
Own method of this library (2026), from the closed form of leave-one-out distinguishability (Ye, Borovykh, Hayou & Shokri 2024,
arXiv:2309.17310).

    μ_R(x) = k(x, R) (K_RR + σ²)⁻¹ Y_R,      t(x) = max(μ_R(x) + 1/K, 0), divided by its sum
    L(θ) = E_{x∈F} H(t(x), p_θ(x))  +  α · E_{(x,y)∈R} ℓ(θ; x, y)

F forget set, R a sample of the retain set with centred one-hot labels Y_R, k an RBF kernel on the inputs (of = inputs) or on the
input of the original's head (of = features), its width the median distance; H cross-entropy of soft targets, ℓ cross-entropy.
For a model that is itself such a process, t is exactly what retraining would predict; for a network it is a guess.
Needs:    forget, retain, original (of = features).     Updates: every trainable parameter.
Cost:     one Cholesky factorisation of |R|², then a forward/backward on F and one on R per step.
Limits:   a class that is not in R keeps only what the prior leaves it (1/K far from all of R, next to nothing near it); the
          rest is shared by the neighbours' labels. α = 0 drops the retain term.
Fails by: features that have learned F by heart (memorised wrong labels) give F its labels back; of = inputs does not, but is
          blind where pixels carry little information.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.outcome import Outcome
from lethe.core.passes import inputs, sample
from lethe.core.registry import method
from lethe.core.seeds import numpy_generator
from lethe.core.split import Batch
from lethe.maths.kernels import fitted, targets
from lethe.train.loop import Loop, Term


@config
class LOODTargets:
    """Options of LOOD targets."""

    of: Literal["inputs", "features"] = "inputs"   # what the kernel compares                  [arXiv:2309.17310: inputs]
    noise: Positive = 0.1            # σ² as a share of the kernel's diagonal                  [official code: 0.01–0.1]
    limit: Count = 1500              # retained examples in the process, a seeded sample       [ours]
    alpha: NonNegative = 1.0         # weight of the retain term                               [ours]
    lr: Positive = 1e-3              # Adam                                                    [ours]
    epochs: Positive = 10.0          # passes over R; F is drawn beside it                      [ours]
    batch_size: Count = 64           # of each term                                            [ours]


def shares(mean: np.ndarray) -> np.ndarray:
    """Centred means as probabilities.  [n, K] -> [n, K]. shares([[0.25, −0.75, −0.25, −0.25]]) == [[1, 0, 0, 0]]"""
    rows = np.maximum(mean + 1 / mean.shape[1], 0)
    total = rows.sum(1, keepdims=True)
    divided: np.ndarray = np.where(total > 0, rows / np.where(total > 0, total, 1), 1 / mean.shape[1])
    return divided


@method(needs={"forget", "retain", "original"}, uses={"features", "inputs", "labels", "nll", "outputs"}, mechanism="distil")
def run(cfg: LOODTargets, task: ClassificationTask, loop: Loop) -> Outcome:
    model = loop.start()
    retain = sample(task.retain, cfg.limit, numpy_generator(loop.seed, "triage"))
    classes = task.outputs(task.original, loop.on_device(task.forget.batch([0]))).shape[-1]
    x, q = (inputs(task, split, cfg.of == "features") for split in (retain, task.forget))
    fit = fitted(x, targets(retain.columns["y"].numpy(), classes), cfg.noise)
    table = torch.tensor(shares(fit.mean(q)), dtype=torch.float32, device=loop.settings.device)

    def imitate(m: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(task.outputs(m, batch), table[batch.index.to(table.device)], reduction="none")

    terms = {"retain": Term(task.retain, task.nll, cfg.alpha), "forget": Term(task.forget, imitate)}
    loop.minimise(model, terms, over="retain", lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser="adam")
    return loop.finish(model)
