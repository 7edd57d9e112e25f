"""SSD, selective synaptic dampening: shrink the weights that matter more to the forget set than to the training data. Foster,
Schoepf & Brintrup (2024), arXiv:2308.07707.

    θ_j ← β_j · θ_j  where  I^F_j > α · I^D_j,    β_j = min(λ · I^D_j / I^F_j, 1);    the other weights stay as they are

F forget set, D training set (retain and forget together), I importance = diagonal of the Fisher information of the loss at
the original weights, α selection threshold, λ dampening.
importance = batch    mean over mini-batches of the squared batch-mean gradient (the official code). It grows where gradients
                      of a batch agree, and falls like 1/batch size where they do not.
importance = sample   mean over examples of the squared gradient: the empirical Fisher. Then I^D ≥ (|F|/|D|) · I^F, so nothing is
                      selected once α ≥ |D|/|F|.
importance = norm     mean over mini-batches of |gradient| of the batch mean of ‖f_θ(x)‖², the squared norm of the outputs: LFSSD,
                      Foster, Schoepf & Brintrup (2024), arXiv:2402.19308. No labels.
alpha = auto          the p-th percentile of I^F_j/I^D_j over all weights, p = 100 − log(1 + 100·|F|/|D|), natural log: ASSD,
                      Schoepf, Foster & Brintrup (2024), arXiv:2402.10098. About (100 − p) % of the weights are dampened.
Needs:    forget, retain.     Updates: the selected weights.
Cost:     one gradient pass over D and one over F (`sample`: one backward per example); no optimisation.
Limits:   α → ∞ or λ → ∞ changes nothing; what has no importance for either stays (0 > 0 is false).
Fails by: scattered single examples: their important weights are everybody's, and the network collapses. Too small α destroys.
Deviations: D and F use the same batch size, and D is shuffled (seeded); the official code takes F in batches of another size,
          so that its α means something else for every forget set. Weighted by batch size, eval mode.
          In the percentile a weight that matters to neither counts as 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split, concat
from lethe.core.task import Task
from lethe.maths.importance import absolute_batch_gradients, squared_batch_gradients, squared_example_gradients
from lethe.train.loop import Loop

ESTIMATORS = {"batch": squared_batch_gradients, "sample": squared_example_gradients, "norm": absolute_batch_gradients}


@config
class SSD:
    """Options of SSD."""

    alpha: Positive | Literal["auto"] = 10.0           # threshold; larger touches less; auto: ASSD   [paper, ResNet-18]
    dampening: NonNegative = 1.0                       # λ; smaller shrinks more              [paper, ResNet-18]
    importance: Literal["batch", "sample", "norm"] = "batch"   # how I is estimated; norm: LFSSD   [official code: batch]
    batch_size: Count = 64                             # of both; changes what α means        [ours]


def dampened(theta: Tensor, forget: Tensor, train: Tensor, alpha: float, dampening: float) -> Tensor:
    """β ⊙ θ where the forget importance exceeds α times the training importance, θ elsewhere.  [any shape] -> same

    dampened([2, 2], [8, 8], [1, 0.5], α=10, λ=1) == [2, 0.125]: 8 > 10·1 is false; 8 > 10·0.5 is true, β = 0.5/8 = 1/16.
    """
    selected = forget > alpha * train
    beta = (dampening * train / torch.where(selected, forget, torch.ones_like(forget))).clamp(max=1)
    return torch.where(selected, beta * theta, theta)


def automatic(forget: Mapping[str, Tensor], train: Mapping[str, Tensor], share: float) -> float:
    """α of ASSD: the p-th percentile of I^F/I^D over all weights (0/0 is 0), p = 100 − log(1 + 100·share), share = |F|/|D|.

    share = (e − 1)/100 gives p = 99: of the ratios 1, 2, …, 101 it is the hundredth, 100, and one weight exceeds it.
    """
    f, d = (torch.cat([value.flatten() for value in held.values()]) for held in (forget, train))
    ratios = torch.where(f > 0, f / d, torch.zeros_like(f))
    p = 100 - math.log1p(100 * share)
    return float(torch.kthvalue(ratios, 1 + math.floor(p / 100 * (len(ratios) - 1) + 1e-9)).values)


@method(needs={"forget", "retain"}, uses={"nll", "outputs"}, mechanism="mask")
def run(cfg: SSD, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    everything = concat([task.retain, task.forget], "train")
    everything = everything.subset(torch.randperm(len(everything), generator=loop.generator("ssd")).numpy(), "train")
    moving = loop.selected(model)

    def norm(m: nn.Module, batch: Batch) -> Tensor:
        return task.outputs(m, batch).float().flatten(1).square().sum(1)

    def importance(split: Split) -> dict[str, Tensor]:
        loop.cost.examples += len(split)
        batches = loop.drawn(split, cfg.batch_size, "ssd", split.name)
        return ESTIMATORS[cfg.importance](model, moving, batches, norm if cfg.importance == "norm" else task.nll)

    train, forget = importance(everything), importance(task.forget)
    alpha = cfg.alpha
    if alpha == "auto":
        alpha = automatic(forget, train, len(task.forget) / len(everything))
        loop.notes.append(f"alpha = {alpha:.3g} was found from the share of the forget set")
    values = {n: dampened(p.detach(), forget[n], train[n], alpha, cfg.dampening) for n, p in moving.items()}
    changed = sum(int((values[n] != p).sum()) for n, p in moving.items())
    if not changed:
        loop.notes.append(f"no weight was selected at alpha={alpha:g}, so nothing was forgotten; lower method.alpha")
    return loop.finish(loop.assign(model, values))
