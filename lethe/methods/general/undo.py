"""UNDO, unlearn, noise, distil: damage all weights of an unlearned model, then let it imitate the undamaged one on retained data.
Lee, Foster, Zhu, Ward, Cundy, Pearce et al. (2025), "Distillation robustifies unlearning", NeurIPS 2025, arXiv:2506.06278.

    θ_T = the model that `teacher` gives,     θ = (1 − a)·θ_T + a·b·N
    L(θ) = E_{x∈R} D(p_T(x) ‖ p_θ(x))

R retain set, p_T the frozen teacher's answers, D the family's divergence, N drawn once: Xavier-uniform for matrices (and what has
more dimensions), 0 for vectors; a share of the damage, b size of the noise. What suppresses knowledge in θ_T without removing
it is not needed for imitating on R, and the damage is what makes the imitation start anew.
Needs:    forget, retain, original; what the teacher needs.     Updates: every trainable parameter.
Cost:     the teacher, then one forward/backward on R per step; p_T on R is computed once where it fits in `cache_mb`.
Limits:   a = 0 is the teacher with a little self-distillation, whose loss starts at 0; a = 1 is distillation from scratch.
Fails by: too little damage (what was suppressed comes back after a few relearning steps) or too few epochs to repair it: the
          watchdog then returns the original. The cost is 60 to 80 % of retraining in the paper.
Deviations: the paper distils a language model on fresh text for a fixed number of steps; here on R, for passes over it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, NonNegative, Optimiser, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.core.task import Task
from lethe.core.view import missing
from lethe.errors import NeedsUnmet, RequestError
from lethe.train.inner import Named, charge, known, within
from lethe.train.loop import Loop, Term


@config
class UNDO:
    """Options of UNDO."""

    teacher: Named = "grad_diff"       # the method that unlearns first [e.g. gradient_ascent]  [paper: any]
    damage: Fraction = 0.25            # a; 0 leaves the teacher                             [official code: WMDP .25]
    noise: NonNegative = 0.1           # b; 0 only shrinks the weights                       [official code: 0 to .5]
    lr: Positive = 1e-3                # AdamW, of the imitation                             [ours, small models]
    epochs: Positive = 5.0             # passes over R                                       [ours; paper: 3,000 steps]
    batch_size: Count = 64             # examples of R per step                              [ours]
    optimiser: Optimiser = "adamw"     # update rule                                         [official code]
    weight_decay: NonNegative = 0.0    # pull towards 0                                      [ours]
    clip: Positive | None = 1.0        # largest gradient norm; null: none                   [ours]


def damaged(theta: Tensor, share: float, size: float, rng: torch.Generator) -> Tensor:
    """(1 − a)·θ + a·b·N; N uniform in ±√(6/(in + out)) for tensors of two and more dimensions, else 0.  [any shape] -> same

    damaged([2], 0.5, 1) == [1], a vector: it shrinks.
    """
    kept = (1 - share) * theta
    if theta.dim() < 2:
        return kept
    noise = torch.empty(theta.shape, dtype=torch.float32)
    nn.init.xavier_uniform_(noise, generator=rng)
    return kept + share * size * noise.to(theta)


@method(needs={"forget", "retain", "original", "holdout?"}, uses={"divergence", "nll", "outputs"}, mechanism="distil")
def run(cfg: UNDO, task: Task, loop: Loop) -> Outcome:
    record, options = known("teacher", cfg.teacher)
    for need in task.lacks(record.needs):
        raise NeedsUnmet(missing(need))
    first = within(loop, task.granted(record.needs, record.uses), "teacher", loop.modifiers, watched=task)
    taught = record.run(options, first.task, first)
    if taught.kind != "weights":
        raise RequestError(f"{record.name} returns a model of kind {taught.kind!r}, so it cannot be damaged. Name a method "
                           "that changes weights.")
    charge(loop, first)
    loop.notes += [f"teacher ({record.name}): {note}" for note in taught.notes]
    pupil = task.replaced(taught.model, forget=task.forget, retain=task.retain)
    second = within(loop, pupil, "pupil", loop.modifiers)
    teacher = second.reference("undo", pupil.outputs, pupil.retain)
    model, rng = second.start(), loop.generator("undo")
    second.assign(model, {name: damaged(p.detach().cpu(), cfg.damage, cfg.noise, rng)
                          for name, p in second.selected(model).items()})

    def imitate(m: nn.Module, b: Batch) -> Tensor:
        return pupil.divergence(teacher(b), pupil.outputs(m, b), b)

    with second.damage():   # the imitation starts from damaged weights; the outer run judges what it ends with
        second.minimise(model, {"retain": Term(pupil.retain, imitate)}, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                        optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip)
    charge(loop, second)
    return loop.finish(model)
