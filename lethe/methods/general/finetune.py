"""Fine-tuning: go on training on the retained data and hope that the rest fades. Folklore baseline; e.g. Golatkar, Achille &
Soatto (2020), arXiv:1911.04933.

    L(θ) = E_{x∈R} ℓ(θ; x),  started at θ_0

R retain set, ℓ the family's training loss, θ_0 the original weights.
Needs:    retain.     Updates: every trainable parameter.
Cost:     one forward/backward on R per step; the cost that every other approximate method is held against.
Limits:   without steps it is the original. The forget set is never touched.
Fails by: forgetting almost nothing: a gradient on R does not oppose what was learned from F.
"""

from __future__ import annotations

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.task import Task
from lethe.train.loop import Loop, Term


@config
class Finetune:
    """Options of fine-tuning."""

    lr: Positive = 1e-2                # SGD; larger forgets more and costs more utility     [arXiv:2304.04934]
    epochs: Positive = 10.0            # passes over R                                       [arXiv:2304.04934]
    batch_size: Count = 64             # examples per step                                   [ours]
    optimiser: Optimiser = "sgd"       # update rule                                         [arXiv:2304.04934]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [arXiv:2304.04934]
    clip: Positive | None = None       # largest gradient norm; null: none                   [arXiv:2304.04934: none]


@method(needs={"retain"}, uses={"batch_loss"}, mechanism="tuning")
def run(cfg: Finetune, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    terms = {"retain": Term(task.retain, task.batch_loss, coupled=task.coupled)}
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)
