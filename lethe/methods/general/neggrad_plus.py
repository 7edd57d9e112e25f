"""NegGrad+: lower the loss on retained data while raising it on forgotten data. Kurmanji et al. 2023, arXiv:2302.09880.

    L(θ) = β · E_{x∈R} ℓ(θ; x)  −  (1 − β) · E_{x∈F} ℓ(θ; x)

F forget set, R retain set, ℓ the family's training loss, β ∈ [0, 1]. The forget set is cycled while R is passed over.
Needs:    forget, retain.     Updates: every trainable parameter.
Cost:     one forward/backward on F and one on R per step.
Limits:   β = 1 is fine-tuning on R; β = 0 is gradient ascent.
Fails by: divergence for small β or large lr, because −ℓ has no lower bound; does nothing for β near 1 on a class.
"""

from __future__ import annotations

from lethe.core.config import Count, Fraction, NonNegative, Optimiser, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.task import Task
from lethe.train.loop import Loop, Term


@config
class NegGradPlus:
    """Options of NegGrad+."""

    beta: Fraction = 0.98              # weight of the retain term; 0.9–0.999                [ours, digits CNN]
    lr: Positive = 1e-2                # SGD                                                 [ours, digits CNN]
    epochs: Positive = 5.0             # passes over R                                       [official code: 5–10]
    batch_size: Count = 64             # examples of each term per step                      [ours]
    optimiser: Optimiser = "sgd"       # update rule                                         [official code]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [official code]
    clip: Positive | None = 1.0        # largest gradient norm; ascent is unbounded          [ours]


@method(needs={"forget", "retain"}, uses={"batch_loss"}, mechanism="ascent")
def run(cfg: NegGradPlus, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    terms = {
        "retain": Term(task.retain, task.batch_loss, cfg.beta, coupled=task.coupled),
        "forget": Term(task.forget, lambda m, b: -task.batch_loss(m, b), 1 - cfg.beta, coupled=task.coupled),
    }
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)
