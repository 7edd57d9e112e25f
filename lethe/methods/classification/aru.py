"""ARU, adversarial retain-free unlearning: push forgotten inputs just over the decision boundary, and train on them in place of
retained data. Yoon et al. (2026), IEEE document 11414433 (after an open implementation; the paper's text was not at hand).

    x' = PGD(x → t(x), ε) for x∈F,   S = {(x', y'): the original calls x' y' ≠ y},   t(x) its best class other than y
    L(θ) = E_{(x',y')∈S} ℓ(θ; x', y')  +  β·E_{x∈F} [ d(z_θ(x), z̄_S) − d(z_θ(x), z̄_F) + m ]₊

F forget set, S retain-like inputs, ℓ cross-entropy, z logits, z̄_S and z̄_F their means over S and over the batch of F (constant
for the gradient), d(a, b) = 1 − cos(a, b), m margin. Every step of the attack looks from a point shaken by uniform noise of ±ε.
Needs:    forget, original.     Updates: every trainable parameter.
Cost:     `attack_steps` forward/backward of the original over F, once; then one forward/backward on F and one on S per step.
Limits:   β = 0 is fine-tuning on S, where the original is right, if only just.
Fails by: one mean for all of F: made for a single class, it does nothing to scattered wrong labels. S holds only the classes next
          to F, so the others drift; a wide ε makes S so easy that the decision on F stays.
Deviations: an example's own label is left out as target and in S, where the implementation leaves out one class given by hand:
          the same for one class. ε is doubled while none of F crosses. x' is not clipped to an input range, which the task does
          not know. z̄_S is over (up to 256 of) S, where the implementation takes whichever batch came last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
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
class ARU:
    """Options of ARU."""

    bound: Positive = 0.05             # ε, in units of the model's input                    [open code]
    doublings: Natural = 6             # how often ε is doubled while no example crosses [tested in test_aru] [ours]
    attack_steps: Count = 50           # steps of 2ε/steps per coordinate                    [open code]
    beta: NonNegative = 1.0            # β, weight of the triplet; 0 turns it off            [open code]
    margin: NonNegative = 1.0          # m, of cosine distances; larger keeps on pushing     [open code]
    lr: Positive = 1e-3                # SGD; the knob: above collapse                       [ours, digits CNN]
    epochs: Positive = 10.0            # passes over F                                       [ours, digits CNN]
    batch_size: Count = 64             # examples of each term per step                      [ours; open code 128]
    optimiser: Optimiser = "sgd"       # update rule                                         [ours]
    weight_decay: NonNegative = 0.0    # pull towards 0                                      [ours: no retain term to answer it]
    clip: Positive | None = None       # largest gradient norm; null: none                   [open code: none]


def best_other(logits: Tensor, labels: Tensor) -> Tensor:
    """The best class that is not the label.  [n, K], [n] -> [n]; best_other([[3, 2, 1]], [0]) == [1]"""
    return logits.scatter(-1, labels.unsqueeze(-1), float("-inf")).argmax(-1)


def triplet(logits: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """[cos(z, z̄_F) − cos(z, z̄_S) + m]₊, which is [d(z, z̄_S) − d(z, z̄_F) + m]₊.  [n, K], [K], [K] -> [n]

    triplet([[2, 0], [0, 1]], [0, 3], [1, 0], ½) == [1.5, 0]: 1 − 0 + ½ and [0 − 1 + ½]₊.
    """
    return (F.cosine_similarity(logits, negative, -1) - F.cosine_similarity(logits, positive, -1) + margin).clamp(min=0)


def attacked(
    original: nn.Module, task: ClassificationTask, batch: Batch, bound: float, steps: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(x', what the original calls it).  -> [n, …], [n]"""
    start = pixels(batch.x)
    target = best_other(task.outputs(original, batch), batch.y)
    x = start
    for _ in range(steps):
        shaken = x + bound * (2 * torch.rand(x.shape, generator=rng) - 1).to(x.device, x.dtype)
        with torch.enable_grad():
            shaken = shaken.detach().requires_grad_(True)
            loss = cross_entropy(task.outputs(original, batch.replace(x=shaken)), target).sum()
            (gradient,) = torch.autograd.grad(loss, shaken)
        x = start + (x - 2 * bound / steps * gradient.sign() - start).clamp(-bound, bound)
    return x, task.outputs(original, batch.replace(x=x)).argmax(-1)


def retain_like(task: ClassificationTask, loop: Loop, cfg: ARU) -> Split:
    """S: those of F that crossed the boundary, with the original's answers."""
    original = task.original.to(loop.settings.device)
    for bound in (cfg.bound * 2.0**j for j in range(cfg.doublings + 1)):
        rng = loop.generator("aru", bound)
        with evaluating(original):
            parts = [(*attacked(original, task, batch, bound, cfg.attack_steps, rng), batch.y)
                     for batch in loop.drawn(task.forget, 256, "aru")]
        x, predicted, y = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        loop.cost.examples += cfg.attack_steps * len(task.forget)
        crossed = predicted != y
        if crossed.any():
            loop.notes.append(f"{int(crossed.sum())} of {len(crossed)} forgotten examples crossed the boundary within {bound:g} "
                              "and stand in for retained data")
            return Split({"x": x[crossed], "y": predicted[crossed]}, "retain-like")
    raise RequestError(f"method.bound = {cfg.bound:g} with {cfg.doublings} doublings carried no forgotten example over the "
                       "boundary, so nothing can stand in for retained data and nothing was changed. Raise method.doublings.")


@method(needs={"forget", "original"}, uses={"inputs", "labels", "nll", "outputs"}, mechanism="relabel")
def run(cfg: ARU, task: ClassificationTask, loop: Loop) -> Outcome:
    continuous(task.forget.batch([0]))   # tokens are refused before any work
    model = loop.start()
    like = retain_like(task, loop, cfg)
    some = loop.on_device(like.batch(range(min(len(like), 256))))

    def away(m: nn.Module, batch: Batch) -> Tensor:
        logits = task.outputs(m, batch).float()
        with torch.no_grad():
            positive = task.outputs(m, some).float().mean(0)
        return triplet(logits, positive, logits.detach().mean(0), cfg.margin)

    terms = {"forget": Term(task.forget, away, cfg.beta), "like": Term(like, task.nll)}
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)
