"""SFRon: raise the loss on forgotten data through the weights that matter to it, and repair with steps on retained data. Huang,
Cheng, Zheng, Wang, He, Li & Huang (2024), arXiv:2409.19732.

    every `freq` steps:  θ ← step along  m ⊙ ∇ [ − α_s · (1/B) Σ_{i∈B⊂F} c_i ℓ_i ],   c_i ∝ 1/ℓ_i^λ with mean 1, constant
    every step:          θ ← step along  ∇ E_{x∈R} ℓ(θ; x)                             (the same optimiser)
    m_j = 1 where I^F_j ≥ γ · I^R_j,     α_s = α (1 + cos(π s/n)) / 2

F forget set, R retain set, ℓ the family's training loss, s step of n, I importance = mean over batches of the squared
batch-mean gradient at the original, c_i: what is not forgotten yet (small loss) is pushed harder.
To first order a forget step followed by retain steps is a step preconditioned by the inverse Hessian of the retain loss.
Needs:    forget, retain.     Updates: forget steps the weights with m_j = 1 (momentum and weight decay reach the others too);
          retain steps every trainable parameter.
Cost:     one gradient pass over F and one over R for m; then one forward/backward on R per step and one on F every `freq` steps.
Limits:   α = 0 is `finetune` with cosine decay up to momentum; γ = 0 lets every weight move; λ = 0 weighs alike.
Fails by: instability on whole classes, where (freq, α) must be searched; α has to fit lr, clip and batch size.
Deviations: the mask compares I^F with γ·I^R instead of dividing (no 0/0). Both importances use the same batch size. The clip
          holds for retain steps as well. The slow copy (EMA) of the official code, off by default there, is the `average`
          modifier. Length is counted in passes over R, not steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.maths.importance import squared_batch_gradients
from lethe.train.loop import Loop, Term


@config
class SFRon:
    """Options of SFRon."""

    alpha: NonNegative = 25.0          # α_0, strength of a forget step at the start         [official code, CIFAR-10]
    freq: Count = 5                    # retain steps per forget step                        [official code, CIFAR-10]
    power: NonNegative = 0.5           # λ of the adaptive weights; 0 weighs alike           [official code]
    floor: Positive = 1e-15            # added to ℓ^λ; keeps c finite                        [official code]
    ratio: NonNegative = 1.0           # γ, least I^F/I^R of a weight that forgets           [official code]
    lr: Positive = 1e-2                # SGD, cosine to 0                                    [official code, CIFAR-10]
    epochs: Positive = 10.0            # passes over R                                       [official code: 1500 steps ≈ 8.5]
    batch_size: Count = 64             # examples of each term per step, and of I            [ours; official 256]
    optimiser: Optimiser = "sgd"       # update rule                                         [official code]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [official code]
    clip: Positive | None = 7.0        # largest gradient norm                               [official code]


def fading(share: float, alpha: float) -> float:
    """α_s when `share` of the run is done. fading(0, 25) == 25, fading(½, 25) == 12.5, fading(1, 25) == 0."""
    return alpha * (1 + math.cos(math.pi * share)) / 2


def forgetting_mask(forget: Tensor, retain: Tensor, ratio: float) -> Tensor:
    """I^F ≥ γ·I^R, entry by entry: the weights that forget steps may move.  [any shape], same -> boolean"""
    return forget >= ratio * retain


@dataclass(frozen=True)
class FastSlow:
    """combine: a masked step along the forget gradient, then a step along the retain gradient."""

    masks: Sequence[Tensor]

    def step(
        self, terms: Sequence[str], gradients: Callable[[Sequence[str]], list[Tensor]], apply: Callable[[list[Tensor]], None]
    ) -> None:
        for term in terms:
            found = gradients([term])
            apply([g * m for g, m in zip(found, self.masks, strict=True)] if term == "forget" else found)


@method(needs={"forget", "retain"}, uses={"nll"}, mechanism="ascent")
def run(cfg: SFRon, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    moving = loop.selected(model)

    def importance(split: Split) -> dict[str, Tensor]:
        loop.cost.examples += len(split)
        return squared_batch_gradients(model, moving, loop.drawn(split, cfg.batch_size, "sfron"), task.nll)

    on_forget, on_retain = importance(task.forget), importance(task.retain)
    masks = [forgetting_mask(on_forget[name], on_retain[name], cfg.ratio) for name in moving]
    terms = {
        "forget": Term(task.forget, lambda m, b: -task.nll(m, b), lambda share: fading(share, cfg.alpha), every=cfg.freq),
        "retain": Term(task.retain, task.nll),
    }
    loop.minimise(model, terms, over="retain", lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip, schedule="cosine",
                  combine=FastSlow(masks), weigh={"name": "loss", "power": cfg.power, "floor": cfg.floor})
    return loop.finish(model)
