"""SSD, selective synaptic dampening: shrink the weights that matter more to the forget set than to the training data.
Foster, Schoepf & Brintrup (2024), arXiv:2308.07707.

    θ_j ← β_j · θ_j  where  I^F_j > α · I^D_j,    β_j = min(λ · I^D_j / I^F_j, 1);    the other weights stay as they are

F forget set, D training set (retain and forget together), I importance = diagonal of the Fisher information of the loss at
the original weights, α selection threshold, λ dampening.
importance = batch    mean over mini-batches of the squared batch-mean gradient (the official code). It grows where gradients
                      of a batch agree, and falls like 1/batch size where they do not.
importance = sample   mean over examples of the squared gradient: the empirical Fisher. Then I^D ≥ (|F|/|D|) · I^F, so nothing is
                      selected once α ≥ |D|/|F|.
Needs:    forget, retain.     Updates: the selected weights.
Cost:     one gradient pass over D and one over F (`sample`: one backward per example); no optimisation.
Limits:   α → ∞ or λ → ∞ changes nothing; what has no importance for either stays (0 > 0 is false).
Fails by: scattered single examples: their important weights are everybody's, and the network collapses. Too small α destroys.
Measured: digits CNN, 38 k weights, 3 seeds; accuracy in % on R/F/test, then mean Jensen–Shannon divergence of predictions on F
          to two retrained models. Class 3 (untouched 0.94, retrained pair 0.12): 96.4/0/96.6, 0.23 ± 0.05. 134 memorised wrong
          labels (untouched 0.92, retrained pair 0.01): 28.3/11/27.4, 0.69 ± 0.06: collapse. `guard.floor` takes the collapse
          back.
Deviations: D and F use the same batch size, and D is shuffled (seeded); the official code takes F in batches of another size,
          so that its α means something else for every forget set. Weighted by batch size, eval mode.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.data import Split, concat
from lethe.core.importance import squared_batch_gradients, squared_example_gradients
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.task import Task
from lethe.engine.loop import Loop

ESTIMATORS = {"batch": squared_batch_gradients, "sample": squared_example_gradients}


@config
class Ssd:
    """Options of SSD."""

    alpha: Positive = 10.0             # selection threshold; larger touches fewer weights   [paper, ResNet-18]
    dampening: NonNegative = 1.0       # λ; smaller shrinks more                             [paper, ResNet-18]
    importance: Literal["batch", "sample"] = "batch"   # how I is estimated, see above       [official code: batch]
    batch_size: Count = 64             # of both estimates; changes what α means             [ours]


def dampened(theta: Tensor, forget: Tensor, train: Tensor, alpha: float, dampening: float) -> Tensor:
    """β ⊙ θ where the forget importance exceeds α times the training importance, θ elsewhere.  [any shape] -> same

    dampened([2, 2], [8, 8], [1, 0.5], α=10, λ=1) == [2, 0.125]: 8 > 10·1 is false; 8 > 10·0.5 is true, β = 0.5/8 = 1/16.
    """
    selected = forget > alpha * train
    beta = (dampening * train / torch.where(selected, forget, torch.ones_like(forget))).clamp(max=1)
    return torch.where(selected, beta * theta, theta)


@method(needs={"forget", "retain"}, families={"any"})
def run(cfg: Ssd, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    everything = concat([task.retain, task.forget], "train")
    everything = everything.subset(torch.randperm(len(everything), generator=loop.generator("ssd")).numpy(), "train")
    moving = loop.selected(model)

    def importance(split: Split) -> dict[str, Tensor]:
        loop.cost.examples += len(split)
        batches = loop.drawn(split, cfg.batch_size, "ssd", split.name)
        return ESTIMATORS[cfg.importance](model, moving, batches, task.nll)

    train, forget = importance(everything), importance(task.forget)
    values = {n: dampened(p.detach(), forget[n], train[n], cfg.alpha, cfg.dampening) for n, p in moving.items()}
    changed = sum(int((values[n] != p).sum()) for n, p in moving.items())
    if not changed:
        loop.notes.append(f"no weight was selected at alpha={cfg.alpha:g}, so nothing was forgotten; lower method.alpha")
    return loop.finish(loop.assign(model, values))
