"""UAM, unlearning-aware minimisation: compute each retain step at weights that were first moved to where the forgotten data fit
worst. NeurIPS 2025 (after an open implementation; the paper's text was not at hand).

    θ ← θ − η · ∇L_R(θ + ρ · g/‖g‖),    g = ∇L_F(θ),    L_S(θ) = E_{x∈S} ℓ(θ; x)

F forget set, R retain set, ℓ the family's training loss, ρ radius in the ℓ2 norm over all moved weights, η lr.
Needs:    forget, retain.     Updates: every trainable parameter.
Cost:     one forward/backward on F and one on R per step.
Limits:   ρ = 0 is fine-tuning bit for bit.
Fails by: moving along the retain gradient alone: θ forgets only where ∇²L_R · g is large, and small ρ is fine-tuning.
Deviations: the published form draws batches as here; weight decay and momentum act on the step at θ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.modules import put_back
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.task import Task
from lethe.train.loop import Loop, Term

Gradients = list[Tensor]


@config
class UAM:
    """Options of UAM."""

    rho: NonNegative = 0.5             # ρ, radius; larger forgets more; the knob            [ours, digits CNN]
    lr: Positive = 1e-2                # SGD                                                 [as finetune, arXiv:2304.04934]
    epochs: Positive = 10.0            # passes over R                                       [as finetune, arXiv:2304.04934]
    batch_size: Count = 64             # examples of each term per step                      [ours]
    optimiser: Optimiser = "sgd"       # update rule                                         [as finetune, arXiv:2304.04934]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [as finetune, arXiv:2304.04934]
    clip: Positive | None = None       # largest gradient norm; null: none                   [as finetune]


def moved(gradients: Gradients, rho: float) -> Gradients:
    """ρ·g/‖g‖ with the norm over all tensors; 0 where the gradient is.

    moved([[3], [4]], 0.5) == [[0.3], [0.4]]: the norm is 5.
    """
    norm = torch.stack([g.norm() for g in gradients]).norm().clamp(min=1e-12)
    return [g * (rho / norm) for g in gradients]


@dataclass(frozen=True)
class AtWorst:
    """combine: a step along the retain gradient at the place where the forget loss is higher."""

    params: Sequence[nn.Parameter]
    rho: float

    def step(
        self, terms: Sequence[str], gradients: Callable[[Sequence[str]], Gradients], apply: Callable[[Gradients], None]
    ) -> None:
        if not self.rho:
            return apply(gradients(["retain"]))
        away = moved(gradients(["forget"]), self.rho)
        with put_back(self.params):
            with torch.no_grad():
                for p, step in zip(self.params, away, strict=True):
                    p.add_(step)
            found = gradients(["retain"])
        apply(found)


@method(needs={"forget", "retain"}, uses={"nll"}, mechanism="ascent")
def run(cfg: UAM, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    terms = {"retain": Term(task.retain, task.nll), "forget": Term(task.forget, task.nll)}
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip, combine=AtWorst(list(loop.selected(model).values()), cfg.rho))
    return loop.finish(model)
