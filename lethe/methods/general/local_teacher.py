"""Local teacher distillation: answer forgotten data like a model that knows only the retained data around them. Dolgova & Stich
(2026), "Forgetting Has Neighbors", arXiv:2605.31317.

    N = the ⌈k·|F|⌉ examples of R whose features by θ_0 lie nearest to one of F
    θ_N = a fresh model, trained by the family's loss on N alone
    L(θ) = w · E_{x∈F} D_T(θ_N ‖ θ)  +  E_{x∈R} ℓ(θ; x),     started at θ_0

F forget set, R retain set, θ_0 the original, D_T the family's divergence at temperature T (classes: T²·KL of predictions), ℓ its
training loss, k > 0, w ≥ 0. Random targets contradict what a model trained without F says around F, and the contradiction spreads
to its neighbours; θ_N has seen these neighbours and nothing of F, so its soft labels agree with them. (abs)
Needs:    forget, retain, original.     Updates: every trainable parameter.
Cost:     features of F and R once, the teacher's passes over N, then one forward/backward on F and one on R per step.
Limits:   w = 0 is `finetune`; N = R with a teacher trained to the end distils a retrained model.
Fails by: few neighbours: with k = 1 a teacher of digits knows too little to be imitated (JS on F with w = 1: .32 bits, k = 4 .09,
          finetune .14). A teacher that is not trained to the end: that of a tiny Llama takes lr 1e-2 and 40 passes, as its recipe
          says (KL of retraining on unseen neighbours .67; by the defaults 1.09, finetune 1.01, the original .94; 3 seeds); of
          digits the recipe's 15 passes are too few (JS there .14, by the defaults .07). Where a whole class goes, the unseen
          digits around it end no nearer to retraining than by fine-tuning (.017, .015 bits), which has not forgotten the class.
Deviations: only the abstract was read. Derived from it: the distance (features, columns scaled by their deviation in R), k, a
          teacher of the original's own architecture from `build` (the paper's is small), its schedule, T and the retain term.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.passes import rows
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split
from lethe.core.task import Task
from lethe.maths.near import nearest_first
from lethe.train.inner import charge, within
from lethe.train.loop import Loop, Modifiers, Term


@config
class LocalTeacher:
    """Options of local teacher distillation."""

    neighbours: Positive = 4.0         # k, |N|/|F|; never more than R                       [ours]
    weight: NonNegative = 0.2          # w, weight of the forget term                        [ours, digits CNN]
    temperature: Positive = 1.0        # T; softens both sides                               [ours]
    teacher_lr: Positive = 2e-3        # of the teacher                                      [ours, digits CNN]
    teacher_epochs: Positive = 20.0    # its passes over N                                   [ours, digits CNN]
    lr: Positive = 1e-3                # of the distillation                                 [ours, digits CNN]
    epochs: Positive = 5.0             # passes over R                                       [ours, digits CNN]
    batch_size: Count = 64             # examples of each term per step                      [ours]
    optimiser: Optimiser = "adam"      # update rule of both                                 [ours]
    weight_decay: NonNegative = 0.0    # pull towards 0                                      [ours]
    clip: Positive | None = None       # largest gradient norm; null: none                   [ours]


def surroundings(cfg: LocalTeacher, task: Task, loop: Loop) -> Split:
    """N, the part of R around F, in the order of R."""
    original = task.original.to(loop.settings.device)

    def seen(split: Split) -> np.ndarray:
        with evaluating(original):
            batches = loop.drawn(split, 256, "local_teacher", split.name)
            return rows(lambda batch: task.features(original, batch).float(), batches, len(split)).numpy()

    count = min(len(task.retain), math.ceil(cfg.neighbours * len(task.forget)))
    return task.retain.subset(np.sort(nearest_first(seen(task.retain), seen(task.forget))[:count]), "neighbours")


@method(needs={"forget", "retain", "original"}, uses={"build", "divergence", "features", "nll", "outputs"}, mechanism="distil")
def run(cfg: LocalTeacher, task: Task, loop: Loop) -> Outcome:
    near = surroundings(cfg, task, loop)
    own = within(loop, task, "teacher", Modifiers())
    teacher = own.start(task.build(derive(loop.seed, "local_teacher")))
    own.minimise(teacher, {"neighbours": Term(near, task.nll)}, lr=cfg.teacher_lr, epochs=cfg.teacher_epochs,
                 batch_size=cfg.batch_size, optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, batch_norm="update")
    teacher.eval().requires_grad_(False)
    charge(loop, own)
    taught = loop.reference("local-teacher", lambda _, batch: task.outputs(teacher, batch), task.forget)

    def imitate(m: nn.Module, batch: Batch) -> Tensor:
        return task.divergence(taught(batch), task.outputs(m, batch), batch, cfg.temperature)

    model = loop.start()
    terms = {"retain": Term(task.retain, task.nll)}
    if cfg.weight:
        terms["forget"] = Term(task.forget, imitate, cfg.weight)
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip)
    loop.notes.append(f"the teacher was trained on {len(near)} of {len(task.retain)} retained examples, those nearest to the "
                      "forget set")
    return loop.finish(model)
