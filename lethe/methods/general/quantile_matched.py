"""Quantile matching: bring the losses on forgotten data to the distribution of the losses on unseen data. Own method of this
library (2026); the target is the null hypothesis of a loss-threshold membership attack (Yeom et al. 2018, arXiv:1709.01604).

    L(θ) = (1/n) Σ_i ( g(ℓ_(i)(θ)) − g(q((i − ½)/n)) )²  +  α · E_{x∈R} ℓ(θ; x)

ℓ_(1) ≤ … ≤ ℓ_(n) the sorted losses of a batch of the forget set F, q the quantile function of the losses of the frozen original
on a reference set H of unseen data, R retain set, g(ℓ) = log(ℓ + ε): losses spread over orders of magnitude.
H is the half of holdout that tasks hand to methods; membership audits take their non-members from the other one, since on H they
would see what was fitted.
Needs:    forget, retain, holdout.     Updates: every trainable parameter.
Cost:     one forward/backward on F and one on R per step; one pass over H.
Limits:   losses that already are the quantiles have no gradient. α = 0 drops the retain term.
Fails by: matching a distribution leaves single examples open: the order of difficulty in F need not be that of a retrained
          model. H must be of the same mix as F; for a class that goes, unseen examples of that class are still known.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.core.task import Task
from lethe.errors import NeedsUnmet
from lethe.train.loop import Loop, Term


@config
class QuantileMatched:
    """Options of quantile matching."""

    alpha: NonNegative = 1.0           # weight of the retain term                           [ours]
    epsilon: Positive = 1e-3           # ε, losses below it count as equal                   [ours]
    lr: Positive = 1e-3                # Adam                                                [ours, digits CNN]
    epochs: Positive = 10.0            # passes over R                                       [ours, digits CNN]
    batch_size: Count = 64             # examples of each term per step                      [ours]
    optimiser: Optimiser = "adam"      # update rule                                         [ours]
    weight_decay: NonNegative = 0.0    # pull towards 0                                      [ours]
    clip: Positive | None = 5.0        # largest gradient norm; null: none                   [ours]


def matched(losses: Tensor, reference: Tensor, epsilon: float) -> Tensor:
    """(g(ℓ) − g(q of its rank))² in the order of `losses`.  [n], sorted [m] -> [n]

    losses (3, 1), reference (1, 2, 3, 4), ε → 0: the ranks ¼ and ¾ have the quantiles 1.75 and 3.25; (ln 3/3.25)², (ln 1/1.75)².
    """
    n = len(losses)
    ranks = (torch.arange(n, device=losses.device, dtype=reference.dtype) + 0.5) / n
    wanted = torch.quantile(reference, ranks)
    order = losses.detach().argsort(stable=True)
    target = torch.empty_like(wanted).scatter_(0, order, wanted)
    return ((losses + epsilon).log() - (target + epsilon).log()).square()


@method(needs={"forget", "retain", "holdout"}, uses={"nll"}, mechanism="ascent")
def run(cfg: QuantileMatched, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    unseen = task.holdout
    if len(unseen) < 2:
        raise NeedsUnmet(f"{len(unseen)} holdout examples fall to the reference set: no quantiles, so nothing was started. Give "
                         "more holdout data.")
    with evaluating(model):
        seen = torch.cat([task.nll(model, batch) for batch in loop.drawn(unseen, 256, "quantile_matched")])
    reference = seen.float().sort().values

    def match(m: nn.Module, batch: Batch) -> Tensor:
        return matched(task.nll(m, batch), reference, cfg.epsilon)

    terms = {"retain": Term(task.retain, task.nll, cfg.alpha), "forget": Term(task.forget, match)}
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)
