"""AMUN: fine-tune on all data and on inputs close to the forgotten ones that the original already gets wrong, with those wrong
answers. Ebrahimpour-Boroojeny, Sundaram & Chandrasekaran (2025), "Not All Wrong is Bad: Using Adversarial Examples for
Unlearning", ICML 2025, arXiv:2503.00917.

    (x', y'):  the closest x' to x∈F (ℓ2) that the original calls y' ≠ y
    teach = both          L(θ) = (1/n) · [ Σ_{(x,y)∈F} ℓ(θ; x, y) + Σ_{F'} ℓ(θ; x', y') + α · Σ_{(x,y)∈R} ℓ(θ; x, y) ]
    teach = adversarial   the same without the true labels of F

F' the pairs (x', y'), n = |R|, where α = 0 the number of pairs taught: every example counts alike. The true labels of F keep the
model as it is around F; its twins move the boundary between them.
F forget set, R retain set, ℓ cross-entropy. x' by projected gradient ascent (`attack_steps` steps) in balls of radius
ε_0, 2ε_0, 4ε_0, …, the first radius that succeeds; an example that the original already gets wrong is its own x'. The set is
built once, in batches; examples for which no radius succeeds are left out (and counted in a note).
Needs:    forget, original; retain when α > 0.     Updates: every trainable parameter.
Cost:     up to `attack_steps` · (`doublings` + 1) passes of the original over F, once; then one forward/backward on F' and, when
          α > 0, one on R per step.
Limits:   without steps it is the original. At θ_0 the loss on F' is small: x' lies where the original predicts y' already.
Fails by: gentleness: made to lower confidence on single examples that a retrained model mostly still gets right. Beside the true
          labels of F a class, or a memorised wrong label, stays: there teach = adversarial.
Deviations: x' is not clipped to an input range, which the task does not know. R and what is taught are drawn side by side, the
          latter cycled; the official code passes over their union, whose weights these are.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Natural, NonNegative, Optimiser, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split, pixels
from lethe.errors import RequestError
from lethe.maths.losses import cross_entropy
from lethe.maths.neighbours import continuous
from lethe.train.loop import Loop, Term


@config
class AMUN:
    """Options of AMUN."""

    teach: Literal["both", "adversarial"] = "both"   # F with its true labels beside F', or F' alone [paper, official code]
    alpha: NonNegative = 1.0           # weight of the retain term; 0 turns it off           [paper: with and without R]
    radius: Positive = 0.25            # ε_0, first ℓ2 radius, in units of the model's input [ours, digits]
    doublings: Natural = 5             # radii tried after it                                [ours]
    attack_steps: Count = 50           # ascent steps per radius                             [paper: PGD-50]
    lr: Positive = 1e-2                # SGD                                                 [paper]
    epochs: Positive = 10.0            # passes over R (over F when α = 0)                   [paper]
    batch_size: Count = 64             # examples of each term per step                      [ours]
    optimiser: Optimiser = "sgd"       # update rule                                         [paper]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [paper]
    clip: Positive | None = None       # largest gradient norm; null: none                   [paper: none]


def projected(x: Tensor, centre: Tensor, radius: float) -> Tensor:
    """x, or the nearest point of the ℓ2 ball around its centre.  [n, …], [n, …] -> [n, …]

    projected([[3, 4]], 0, 2.5) == [[1.5, 2]].
    """
    away = x - centre
    length = away.flatten(1).norm(dim=1).clamp(min=1e-12)
    nearest: Tensor = centre + away * (radius / length).clamp(max=1).view(-1, *[1] * (x.dim() - 1))
    return nearest


def attacked(original: nn.Module, task: ClassificationTask, batch: Batch, cfg: AMUN) -> tuple[Tensor, Tensor, Tensor]:
    """(x', y', whether one was found).  -> [n, …], [n], [n]"""
    x = pixels(batch.x)
    best, predicted = x.clone(), task.outputs(original, batch).argmax(-1)
    found = predicted != batch.y
    for j in range(cfg.doublings + 1):
        radius, left = cfg.radius * 2.0**j, (~found).nonzero()[:, 0]
        moving = x[left]
        for _ in range(cfg.attack_steps + 1):   # looks: at x itself and after every step
            if not len(left):
                break
            with torch.enable_grad():
                moving = moving.detach().requires_grad_(True)
                logits = task.outputs(original, Batch({"x": moving, "y": batch.y[left]}, left))
                (g,) = torch.autograd.grad(cross_entropy(logits, batch.y[left]).sum(), moving)
            wrong = logits.detach().argmax(-1) != batch.y[left]
            done = left[wrong]
            best[done], predicted[done], found[done] = moving.detach()[wrong], logits.detach().argmax(-1)[wrong], True
            unit = g / g.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, *[1] * (g.dim() - 1))
            stepped = projected(moving.detach() + radius / 10 * unit, x[left], radius)
            left, moving = left[~wrong], stepped[~wrong]
    return best, predicted, found


def adversarial(task: ClassificationTask, loop: Loop, cfg: AMUN) -> Split:
    """F' with the original's labels, without examples for which none was found."""
    original = task.original.to(loop.settings.device)
    with evaluating(original):
        parts = [attacked(original, task, batch, cfg) for batch in loop.drawn(task.forget, 256, "amun")]
    x, y, found = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    loop.cost.examples += cfg.attack_steps * len(task.forget)
    if not found.all():
        loop.notes.append(f"no adversarial example was found for {int((~found).sum())} of {len(found)} forgotten ones; raise "
                          "method.doublings")
    if not found.any():
        raise RequestError(f"method.radius = {cfg.radius:g} with {cfg.doublings} doublings fooled the model on no forgotten "
                           "example, so there is nothing to teach; nothing was changed. Raise method.doublings.")
    return Split({"x": x[found], "y": y[found]}, "adversarial")


@method(needs={"forget", "original", "retain?"},
        uses={"inputs", "labels", "nll", "outputs"}, mechanism="relabel", instead={"retain": "alpha=0"})
def run(cfg: AMUN, task: ClassificationTask, loop: Loop) -> Outcome:
    continuous(task.forget.batch([0]))   # tokens are refused before any work
    terms = {"retain": Term(task.retain, task.nll, cfg.alpha)} if cfg.alpha else {}
    model = loop.start()
    taught = adversarial(task, loop, cfg)
    if cfg.teach == "both":
        columns = {"x": pixels(task.forget.columns["x"]), "y": task.forget.columns["y"]}
        taught = Split({key: torch.cat([value, taught.columns[key]]) for key, value in columns.items()}, "taught")
    terms["forget"] = Term(taught, task.nll, len(taught) / len(task.retain) if cfg.alpha else 1.0)
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)
