"""Gradient ascent: raise the loss on the forgotten data. Thudi, Deza, Chandrasekaran & Papernot (2022), arXiv:2109.13398 (there
as amnesia by reversed gradients); Jang et al. (2023), arXiv:2210.01504 for language models.

    L(θ) = − E_{x∈F} ℓ(θ; x),  started at θ_0

F forget set, ℓ the family's training loss, θ_0 the original weights.
Needs:    forget.     Updates: every trainable parameter.
Cost:     one forward/backward on F per step; no retained data.
Limits:   without steps it is the original. −ℓ has no lower bound, so it has no optimum: only the number of steps ends it.
Fails by: a narrow window. Where F is fitted perfectly ∇ℓ ≈ 0 and nothing happens for long; then the loss runs away and
          takes the retained data with it. Use `watchdog.floor`, or a bounded method (NPO, DELETE).
Deviations: the gradient norm is clipped, which the sources do not do; without it the run ends in NaN sooner. OpenUnlearning takes
          one mean over all tokens of a batch of texts (`parity`).
"""

from __future__ import annotations

from dataclasses import replace

from lethe.core.config import Count, NonNegative, Optimiser, Parity, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.task import Task
from lethe.train.loop import Loop
from lethe.train.parity import term


@config
class GradientAscent:
    """Options of gradient ascent."""

    lr: Positive = 3e-3                # SGD; the knob: below nothing, above collapse        [ours, digits CNN]
    epochs: Positive = 5.0             # passes over F                                       [arXiv:2304.04934]
    batch_size: Count = 64             # examples per step                                   [ours]
    optimiser: Optimiser = "sgd"       # update rule                                         [arXiv:2304.04934]
    weight_decay: NonNegative = 0.0    # pull towards 0                                      [ours: no retain term to answer it]
    clip: Positive | None = 1.0        # largest gradient norm; ascent is unbounded          [ours]
    parity: Parity = "none"            # open_unlearning: one mean over all tokens of a batch [tested in test_parity]


@method(needs={"forget"}, uses={"batch_loss"}, mechanism="ascent")
def run(cfg: GradientAscent, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    ascent = term(cfg.parity, task.forget, lambda m, b: -task.batch_loss(m, b))
    terms = {"forget": replace(ascent, coupled=task.coupled)}
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)
