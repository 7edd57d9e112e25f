"""NPO, negative preference optimisation: lower the probability of forgotten answers, with less force the further it has fallen.
Zhang, Lin, Bai & Mei (2024), arXiv:2404.05868.

    L(θ) = E_{x∈F} (2/β) · log(1 + (p_θ(x) / p_0(x))^β)  +  α · E_{x∈R} ℓ̄(x)  +  κ · E_{x∈R} KL(p_0(x) ‖ p_θ(x))

F forget set, R retain set, p(x) the probability of the whole answer (the end token included) given its prompt, p_0 the
original (frozen), ℓ̄ mean negative log-probability of the answer's tokens, β > 0 inverse temperature, α, κ ≥ 0.
Needs:    forget, original; retain when α or κ > 0.     Updates: every trainable parameter.
Cost:     one forward/backward on F and, with a retain term, one on R per step; log p_0 is one number per example,
          computed once, so no second model is in memory.
Limits:   at θ_0 the forget term is (2/β)·ln 2 and its gradient that of descent on log p; β → 0 keeps it so for all θ.
          Elsewhere it is that gradient times W = 2r^β/(1 + r^β) < 2, r = p_θ/p_0: what is forgotten is let go.
Fails by: depending on the answer's length, because log p is a sum: a β that is right for sentences stops early on pages
          (smaller β, or `simnpo`). Forgets the wording better than the facts.
Deviations: ℓ̄ and KL are means per example, then over examples, over answer tokens only; the official code takes both over
          all tokens of a batch (`parity`), KL over prompt and padding too (never here). With dropout the first step is not
          (2/β)·ln 2: p_0 is without it.
"""

from __future__ import annotations

from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Parity, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.losses import npo_loss
from lethe.train.loop import Loop, Term
from lethe.train.order import batches_per_epoch
from lethe.train.parity import term


@config
class NPO:
    """Options of NPO."""

    beta: Positive = 0.1               # smaller is closer to gradient ascent                [paper; official code]
    alpha: NonNegative = 1.0           # weight of the retain loss; 0 is plain NPO           [official code: NPO+GD]
    kl: NonNegative = 0.0              # κ, weight of staying near the original on R         [official code: NPO+KL]
    lr: Positive = 1e-5                # AdamW, for 1–8 B weights; tiny models need more     [official code]
    epochs: Positive = 10.0            # passes over F                                       [official code]
    warmup: NonNegative = 1.0          # passes over F in which lr rises from 0              [official code]
    batch_size: Count = 32             # of each term                                        [official code]
    optimiser: Optimiser = "adamw"     # update rule                                         [official code]
    weight_decay: NonNegative = 0.01   # pull towards 0                                      [official code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]
    parity: Parity = "none"            # open_unlearning: one mean over all tokens of a batch of R [tested in test_parity]


@method(needs={"forget", "retain?", "original"}, uses={"divergence", "nll", "outputs", "sequence_logp"}, mechanism="ascent",
        instead={"retain": "alpha=0"})
def run(cfg: NPO, task: LanguageTask, loop: Loop) -> Outcome:
    logp0 = loop.reference("npo-forget", task.sequence_logp, task.forget)

    def push(m: nn.Module, b: Batch) -> Tensor:
        return npo_loss(task.sequence_logp(m, b), logp0(b), cfg.beta)

    terms = {"forget": Term(task.forget, push)}
    if cfg.alpha:
        terms["retain"] = term(cfg.parity, task.retain, task.nll, cfg.alpha)
    if cfg.kl:
        original = loop.reference("npo-retain", task.outputs, task.retain, draws=cfg.epochs * len(task.forget))

        def stay(m: nn.Module, b: Batch) -> Tensor:
            return task.divergence(original(b), task.outputs(m, b), b)

        terms["kl"] = term(cfg.parity, task.retain, stay, cfg.kl)
    warmup = round(cfg.warmup * batches_per_epoch(task.forget, min(cfg.batch_size, len(task.forget))))
    model = loop.start()
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip, warmup=warmup)
    return loop.finish(model)
