"""SimNPO: lower the probability of forgotten answers per token, with less force the further it has fallen, without the
original. Fan, Liu, Lin, Jia, Zhang, Mei & Liu (2024), arXiv:2410.07163.

    L(θ) = γ_F · E_{x∈F} −(2/β) · log σ(β·(ℓ̄_θ(x) − m))  +  α · E_{x∈R} ℓ̄_θ(x)

F forget set, R retain set, ℓ̄ mean negative log-probability of the answer's |y| tokens, β > 0, m ≥ 0 the margin,
γ_F, α ≥ 0 weights.
Needs:    forget, retain (no original).     Updates: every trainable parameter.
Cost:     one forward/backward on F and one on R per step; nothing of the original is kept.
Limits:   for m = 0 the gradient is that of ascent on ℓ̄ times W = 2p̄^β/(1 + p̄^β), p̄ the geometric mean of the token
          probabilities: no push where the answer is already improbable, whatever its length; β → 0 is ascent.
Fails by: a small γ_F: most of the loss is then the retain term, and every pass is more fine-tuning on R (utility may
          rise above the original's). A long answer with one surprising word counts as remembered.
Deviations: as in the official code m is inside the factor β; the paper writes β·ℓ̄ − m. They agree for m = 0.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Parity, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.train.loop import Loop, Term
from lethe.train.parity import term


@config
class SimNPO:
    """Options of SimNPO."""

    beta: Positive = 2.5               # smaller is closer to gradient ascent               [official code: 2.5–4.5]
    margin: NonNegative = 0.0          # m, nats per token above which the push fades        [official code]
    gamma: Positive = 0.1375           # γ_F, weight of the forget term                      [official code: .125–.1375]
    alpha: NonNegative = 1.0           # weight of the retain loss                           [official code]
    lr: Positive = 1e-5                # AdamW, for 1–8 B weights; tiny models need more     [official code]
    epochs: Positive = 10.0            # passes over F                                       [official code]
    batch_size: Count = 32             # of each term                                        [official code]
    optimiser: Optimiser = "adamw"     # update rule                                         [official code]
    weight_decay: NonNegative = 0.01   # pull towards 0                                      [official code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]
    parity: Parity = "none"            # open_unlearning: one mean over all tokens of a batch of R [tested in test_parity]


def simnpo_loss(nll: Tensor, beta: float, margin: float = 0.0) -> Tensor:
    """(2/β)·softplus(−β(nll − m)), per example; nll is a mean over tokens.  [n] -> [n]

    simnpo_loss(0, 2.5) = 0.8·ln 2 = 0.554518; simnpo_loss(1, 2, 1) = ln 2. d/dnll = −2σ(−β(nll − m)) lies in (−2, 0).
    """
    return (2 / beta) * F.softplus(-beta * (nll - margin))


@method(needs={"forget", "retain"}, uses={"answer_lengths", "nll", "sequence_logp"}, mechanism="ascent")
def run(cfg: SimNPO, task: LanguageTask, loop: Loop) -> Outcome:
    def push(m: nn.Module, b: Batch) -> Tensor:
        return simnpo_loss(-task.sequence_logp(m, b) / task.answer_lengths(b), cfg.beta, cfg.margin)

    terms = {"forget": Term(task.forget, push, cfg.gamma)}
    if cfg.alpha:
        terms["retain"] = term(cfg.parity, task.retain, task.nll, cfg.alpha)
    model = loop.start()
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)
