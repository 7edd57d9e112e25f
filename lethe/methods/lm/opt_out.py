"""Opt-Out: NPO on an entity, held near the initial weights by optimal transport. Choi, Rim, Lee & Choo (2025, ACL),
arXiv:2406.12329.

    L(θ) = E_{x∈F} (2/β) · log(1 + (p_θ(x) / p_0(x))^β)  +  α · E_{x∈R} ℓ̄(x)  +  λ · Σ_W SWD(W, W_0)
    SWD(U, V) = mean over directions r of Σ_i (u_(i) − v_(i))²,   u = U·r, v = V·r, each sorted

F forget set (questions about the entity), R retain set (about its neighbours, and the world), p(x) the probability of the whole
answer, p_0 the original's, ℓ̄ mean negative log-probability of an answer's tokens; W each matrix that moves, its rows as points
(a vector is one row), r random unit directions, new at every step.
Needs:    forget, original; retain when α > 0.     Updates: every trainable parameter.
Cost:     one forward/backward on F and R per step, and a sort of all rows for each direction: most of the time of small batches.
Limits:   λ = 0 is NPO. SWD(U, U) = 0; of one row it is ‖u − v‖²/d on average; rows may change places at no cost.
Fails by: what SWD does not see: it anchors the cloud of rows, not what the model computes. It grows with the number of rows, so λ
          must shrink with it.
Deviations: log p is a sum over the answer's tokens as in NPO's paper; the official code has a mean over the batch's tokens. Its
          two kinds of retained data are one set here. Embeddings count as in the official code (`where` leaves them out).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.losses import npo_loss
from lethe.train.loop import Loop
from lethe.train.tuning import Tuned, tuned


@config
class OptOut(Tuned):
    """Options of Opt-Out."""

    beta: Positive = 0.1               # inverse temperature of NPO                          [official code]
    transport: NonNegative = 0.1       # λ, weight of the distance to the initial weights    [official code]
    directions: Count = 100            # random directions at every step      [official code] [only with lr=0.01 transport=10.0]
    epochs: Positive = 2.0             # passes over F                                       [official code: 1–2]


def sliced_wasserstein(rows: Tensor, others: Tensor, directions: Tensor) -> Tensor:
    """Squared distance of two clouds of points along unit directions, summed over points.  [n, d], [n, d], [d, k] -> []

    sliced_wasserstein([[3], [1]], [[0], [2]], [[1]]) = (1 − 0)² + (3 − 2)² = 2.
    """
    u, v = (rows @ directions).sort(0).values, (others @ directions).sort(0).values
    return (u - v).square().sum(0).mean()


@method(needs={"forget", "retain?", "original"}, uses={"nll", "sequence_logp"}, mechanism="ascent", instead={"retain": "alpha=0"})
def run(cfg: OptOut, task: LanguageTask, loop: Loop) -> Outcome:
    logp0 = loop.reference("optout-forget", task.sequence_logp, task.forget)
    start: dict[str, Tensor] = {}

    def push(m: nn.Module, b: Batch) -> Tensor:
        return npo_loss(task.sequence_logp(m, b), logp0(b), cfg.beta)

    def stray(m: nn.Module, share: float) -> Tensor:
        moving = loop.selected(m)
        if not start:   # a run that goes on is at other weights than it began with
            known = dict(task.original.named_parameters())
            start.update({name: known[name].detach().to(p.device) if name in known else torch.zeros_like(p)
                          for name, p in moving.items()})
        total = torch.zeros((), device=loop.device)
        for name, p in moving.items():
            rows = p.flatten(1) if p.dim() > 1 else p.unsqueeze(0)
            r = torch.randn(rows.shape[1], cfg.directions).to(rows)   # seeded per step; the same on every device
            total = total + sliced_wasserstein(rows, start[name].reshape(rows.shape), r / r.norm(dim=0))
        return cfg.transport * total

    return tuned(cfg, task, loop, push, task.nll, penalty=stray if cfg.transport else None)
