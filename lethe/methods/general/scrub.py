"""SCRUB (+R): move away from the original's answers on forgotten data and stay near them on retained data, in alternating
passes. Kurmanji, Triantafillou, Hayes & Triantafillou (2023), arXiv:2302.09880.

    epoch e = 1…E:   if e ≤ M:  one pass over F minimising  − E_{x∈F} D_T(θ_0 ‖ θ)
                     then       one pass over R minimising  α · E_{x∈R} D_T(θ_0 ‖ θ)  +  γ · E_{x∈R} ℓ(θ; x)

F forget set, R retain set, D_T the family's divergence at temperature T (classes: T²·KL of softened predictions), ℓ its
training loss, θ_0 the original (frozen teacher), M ascent epochs.
+R: keep the weights after every epoch and return those whose mean loss on F is closest to the mean loss on holdout of the
last ones, so that the loss on F is just high enough to look unseen. Of classes, holdout is weighted to the label mix of F:
E_{k∼F} E_{x∈holdout, y=k} ℓ; classes of F that holdout lacks are left out (with a note).
Needs:    forget, retain, original; holdout for +R.     Updates: every trainable parameter.
Cost:     one forward/backward per step; the teacher's answers are computed once. +R keeps E copies of the weights.
Limits:   M = 0, α = 0 and E = 1 is one epoch of `finetune`. At θ_0 the gradient of D is zero: the first ascent step does
          nothing but weight decay, and the distance then grows by a factor per step, so strength is counted in steps.
Fails by: the unbounded ascent: a few steps too many and the retained data go as well. Spread over seeds is large where
          single memorised examples are to be forgotten. +R needs holdout like F but for its labels, or it rewinds wrongly.
Deviations: each pass starts with fresh optimiser state (no ascent momentum runs into the retain pass). The gradient norm is
          clipped. +R compares losses, which every family has, not error rates. The moving-average smoothing term of the
          official code is the `average` modifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

from torch import Tensor, nn

from lethe.core.alike import class_labels
from lethe.core.config import Count, Natural, NonNegative, Optimiser, Positive, config
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.passes import rows
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.core.task import Task
from lethe.train.loop import Loop, Term


@config
class SCRUB:
    """Options of SCRUB."""

    alpha: NonNegative = 0.1           # weight of the divergence on R                       [official code: 0.001–0.5]
    gamma: NonNegative = 1.0           # weight of the training loss on R                    [official code: 0.99–1]
    temperature: Positive = 4.0        # T; softens both sides                               [official code: 2 small, 4 large]
    ascent_epochs: Natural = 3         # M, epochs that begin with a pass over F             [official code: 2–3]
    epochs: Count = 6                  # E, passes over R                                    [ours, digits CNN; official 10]
    lr: Positive = 5e-3                # SGD                                                 [ours, digits CNN; official 5e-4]
    batch_size: Count = 64             # examples per retain step                            [ours]
    forget_batch_size: Count = 16      # examples per forget step; smaller means more ascent [official code: 16–512]
    optimiser: Optimiser = "sgd"       # update rule                                         [official code]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [official code]
    clip: Positive | None = 5.0        # largest gradient norm; bounds the ascent            [ours, digits CNN; official none]
    rewind: bool = False               # SCRUB+R; needs holdout                              [paper: for privacy]


def rewind_point(forget: Sequence[float], holdout: float) -> int:
    """The epoch whose forget loss is closest to the loss on holdout; the later of two equals.

    rewind_point([0.1, 2.5, 1.1], 1.0) == 2: the distances are 0.9, 1.5, 0.1.
    """
    return min(range(len(forget)), key=lambda e: (abs(forget[e] - holdout), -e))


def label_weights(forget: Split, holdout: Split) -> Tensor | None:
    """Weights of holdout by which its classes have the shares that they have in F; they sum to 1.  -> [n] float64

    Forget labels (0, 0, 1), holdout labels (0, 1, 1, 2): ⅔, ⅙, ⅙, 0. None where targets are no classes, or none is shared.
    """
    gone, unseen = class_labels(forget), class_labels(holdout)
    if gone is None or unseen is None:
        return None
    here = unseen.unsqueeze(1) == gone.unsqueeze(0)   # [n, |F|]
    weights: Tensor = (here / here.sum(0).clamp(min=1)).double().sum(1)
    return weights / weights.sum() if weights.any() else None


def unseen_loss(task: Task, loop: Loop, model: nn.Module, holdout: Split) -> float:
    """The loss on holdout that F should reach: a mean over holdout at the label mix of F."""
    weights, gone, unseen = label_weights(task.forget, holdout), class_labels(task.forget), class_labels(holdout)
    if weights is None or gone is None or unseen is None:
        return loop.mean_nll(model, holdout, "rewind", holdout.name)
    lacking = len(set(gone.tolist()) - set(unseen.tolist()))
    if lacking:
        loop.notes.append(f"holdout has no examples of {lacking} classes of the forget set, so the "
                          "rewind is judged without them")
    with evaluating(model):
        losses = rows(partial(task.nll, model), loop.drawn(holdout, 256, "rewind", holdout.name), len(holdout))
    return float(losses.double() @ weights)


@method(needs={"forget", "retain", "original", "holdout?"}, uses={"divergence", "nll", "outputs"}, mechanism="distil")
def run(cfg: SCRUB, task: Task, loop: Loop) -> Outcome:
    holdout = task.holdout if cfg.rewind else None   # refused before any work when it is missing
    model = loop.start()
    on_forget = loop.reference("scrub-forget", task.outputs, task.forget) if cfg.ascent_epochs else None
    on_retain = loop.reference("scrub-retain", task.outputs, task.retain) if cfg.alpha else None

    def disobey(m: nn.Module, batch: Batch) -> Tensor:
        assert on_forget is not None
        return -task.divergence(on_forget(batch), task.outputs(m, batch), batch, cfg.temperature)

    def obey(m: nn.Module, batch: Batch) -> Tensor:
        loss = cfg.gamma * task.nll(m, batch)
        if on_retain is not None:
            loss = loss + cfg.alpha * task.divergence(on_retain(batch), task.outputs(m, batch), batch, cfg.temperature)
        return loss

    points: list[tuple[float, dict[str, Tensor]]] = []
    for epoch in range(cfg.epochs):
        for name, split, loss, size in (("forget", task.forget, disobey, cfg.forget_batch_size),
                                        ("retain", task.retain, obey, cfg.batch_size)):
            if name == "retain" or epoch < cfg.ascent_epochs:
                with loop.damage() if name == "forget" else nullcontext():   # a pass over R follows every ascent
                    loop.minimise(model, {name: Term(split, loss)}, lr=cfg.lr, epochs=1, batch_size=size,
                                  optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip)
        if holdout is not None:
            kept = {key: value.cpu().clone() for key, value in loop.tensors(model).items()}
            points.append((loop.mean_nll(model, task.forget, "rewind", task.forget.name), kept))
    if holdout is not None:
        chosen = rewind_point([loss for loss, _ in points], unseen_loss(task, loop, model, holdout))
        loop.restored(model, points[chosen][1])
        loop.notes.append(f"rewound to epoch {chosen + 1} of {cfg.epochs}")
    return loop.finish(model)
