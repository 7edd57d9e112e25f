"""Bad teacher: imitate an untrained network on forgotten data, and the original on retained data. Chundawat, Tarun, Mandal &
Kankanhalli (2023), arXiv:2205.08096.

    L(θ) = w · E_{x∈F} D_T(θ_i ‖ θ)  +  (1 − w) · E_{x∈R'} D_T(θ_0 ‖ θ),    w = |F| / (|F| + |R'|)

F forget set, R' a random part of the retain set R, θ_0 the original, θ_i the same architecture with freshly drawn weights
(incompetent teacher), D_T the family's divergence at temperature T (classes: T²·KL of predictions). No labels are read.
Needs:    forget, retain, original.     Updates: every trainable parameter.
Cost:     one forward/backward on F and one on R' per step; both teachers' answers are computed once.
Limits:   without F (w = 0) and at θ_0 the gradient is zero: nothing changes.
Fails by: answers on F that no retrained model would give: nearly uniform, which itself reveals what was forgotten.
Deviations: D is summed over classes; the official code averages over them, which divides its learning rate by their number.
          The union of F and R' is drawn as two batches with weights by size instead of one mixed batch. The incompetent
          teacher is in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, NonNegative, Optimiser, Positive, config
from lethe.core.modules import reinitialised
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch
from lethe.core.task import Task
from lethe.train.loop import Loop, Term
from lethe.train.terms import Loss


@config
class BadTeacher:
    """Options of bad teacher."""

    retain_share: Fraction = 0.3       # |R'|/|R|, at least one example                      [official code]
    temperature: Positive = 1.0        # T; softens both sides                               [official code]
    lr: Positive = 1e-3                # Adam                                                [ours, digits CNN; official 1e-4]
    epochs: Positive = 10.0            # passes over R'                                      [ours, digits CNN; official 1]
    batch_size: Count = 64             # examples of each term per step                      [ours; official 256, mixed]
    optimiser: Optimiser = "adam"      # update rule                                         [official code]
    weight_decay: NonNegative = 0.0    # pull towards 0                                      [official code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]


def forget_weight(forget: int, retain: int) -> float:
    """w = |F|/(|F| + |R'|): what one pass over the mixed union gives to F. forget_weight(1, 3) == 0.25."""
    return forget / (forget + retain)


@method(needs={"forget", "retain", "original"}, uses={"divergence", "outputs", "weights"}, mechanism="distil")
def run(cfg: BadTeacher, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    count = max(1, round(cfg.retain_share * len(task.retain)))
    order = torch.randperm(len(task.retain), generator=loop.generator("bad_teacher", "sample"))
    part = task.retain.subset(order[:count].numpy(), "retain")
    ignorant = reinitialised(task.original, derive(loop.seed, "bad_teacher")).eval().requires_grad_(False)
    ignorant.to(loop.settings.device)
    wrong = loop.reference("bad-teacher-forget", lambda _, batch: task.outputs(ignorant, batch), task.forget)
    right = loop.reference("bad-teacher-retain", task.outputs, part)

    def imitate(teacher: Callable[[Batch], Tensor]) -> Loss:
        def loss(m: nn.Module, batch: Batch) -> Tensor:
            return task.divergence(teacher(batch), task.outputs(m, batch), batch, cfg.temperature)

        return loss

    weight = forget_weight(len(task.forget), len(part))
    terms = {"retain": Term(part, imitate(right), 1 - weight), "forget": Term(task.forget, imitate(wrong), weight)}
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)
