"""Stochastic teacher: first imitate an untrained network on forgotten data, then train on the retained data. Zhang et al.
(2023), "Machine Unlearning Methodology base on Stochastic Teacher Network", arXiv:2308.14322.

    1. erase        L(θ) = E_{x∈F} D_T(θ_i ‖ θ),     started at θ_0
    2. reconstruct  L(θ) = E_{x∈R} ℓ(θ; x)

F forget set, R retain set, θ_0 the original, θ_i the same architecture with freshly drawn weights (frozen, eval mode), D_T the
family's divergence at temperature T (classes: T²·KL of predictions), ℓ its training loss. The two phases follow each other; bad
teacher runs them side by side and holds R by the original's answers.
Needs:    forget, retain, original (its architecture and head size).     Updates: every trainable parameter.
Cost:     one forward/backward on F per erasing step, then one on R per step; the teacher's answers are computed once.
Limits:   without erasing it is `finetune`; without reconstruction the retained data go with the forgotten.
Fails by: reconstruction may bring back what the features still hold: watch how fast it is relearned.
Deviations: only the abstract describes the published procedure; steps, losses and sizes are ours. The original's answers do not
          take part in the reconstruction: unmasked they teach the class again.
"""

from __future__ import annotations

from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.modules import reinitialised
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch
from lethe.core.task import Task
from lethe.train.loop import Loop, Term


@config
class StochasticTeacher:
    """Options of the stochastic teacher."""

    temperature: Positive = 1.0        # T; softens both sides                               [ours]
    erase_lr: Positive = 2e-3          # of the first phase                                  [ours, digits CNN]
    erase_epochs: NonNegative = 3.0    # passes over F                                       [ours, digits CNN; paper 1]
    erase_batch_size: Count = 32       # examples per erasing step                           [ours, digits CNN]
    lr: Positive = 1e-3                # of the second phase                                 [ours, digits CNN]
    epochs: NonNegative = 3.0          # passes over R                                       [ours, digits CNN]
    batch_size: Count = 64             # examples per reconstructing step                    [ours]
    optimiser: Optimiser = "adam"      # update rule of both phases                         [ours]
    weight_decay: NonNegative = 0.0    # pull towards 0                                      [ours]


@method(needs={"forget", "retain", "original"}, uses={"divergence", "nll", "outputs"}, mechanism="distil")
def run(cfg: StochasticTeacher, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    teacher = reinitialised(task.original, derive(loop.seed, "stochastic_teacher")).eval().requires_grad_(False)
    teacher.to(loop.settings.device)
    taught = loop.reference("stochastic-teacher", lambda _, batch: task.outputs(teacher, batch), task.forget)

    def erase(m: nn.Module, batch: Batch) -> Tensor:
        return task.divergence(taught(batch), task.outputs(m, batch), batch, cfg.temperature)

    with loop.damage():   # the second pass repairs it
        loop.minimise(model, {"forget": Term(task.forget, erase)}, lr=cfg.erase_lr, epochs=cfg.erase_epochs,
                      batch_size=cfg.erase_batch_size, optimiser=cfg.optimiser, weight_decay=cfg.weight_decay)
    loop.minimise(model, {"retain": Term(task.retain, task.nll)}, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser=cfg.optimiser, weight_decay=cfg.weight_decay)
    return loop.finish(model)
