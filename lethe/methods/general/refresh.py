"""Refresh learning: before every training step on retained data, take a step that unlearns and spares weights the retained data
need. Wang, Li, Shen & Huang (2024), ICLR 2024, arXiv:2403.13249.

    unlearn:  θ ← θ + δ · P ⊙ (u + ν · n),    u = ‖θ‖ · g/‖g‖ per tensor,  g = ∇ E_{x∈F} ℓ(θ; x),  n ~ N(0, I)
    learn:    an optimiser step down E_{x∈R} ℓ(θ; x)
    P = 1/(1 + κ · I^R / mean I^R),    I^R importance of the weights for R at θ_0

F forget set, R retain set, ℓ the family's training loss, δ size of an unlearning step relative to the weights, ν noise, κ
strength of the protection, I^R squared batch-mean gradients.
Needs:    forget, retain.     Updates: every trainable parameter.
Cost:     one gradient pass over R, then one forward/backward on F and one on R per step.
Limits:   δ = 0 is fine-tuning bit for bit; an unlearning step raises the loss of its batch (tested).
Fails by: δ, which the norm of the weights fixes whatever the gradient: it does not end when all is forgotten, and what R does not
          repair is lost.
Deviations: made for continual learning, where each batch is unlearned before it is learned; here what is unlearned is of F. The
          form of the official code (normalised u), not the Langevin step of the paper, θ + γF⁻¹g + N(0, 2γF⁻¹). I^R is divided by
          its mean per tensor, so that κ does not depend on the scale of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.task import Task
from lethe.maths.importance import squared_batch_gradients
from lethe.train.distribute import laid_out
from lethe.train.loop import Loop, Term

Gradients = list[Tensor]


@config
class Refresh:
    """Options of refresh learning."""

    delta: NonNegative = 2e-3          # δ, unlearning step relative to ‖θ‖; the knob        [ours, digits CNN; official 1e-5]
    noise: NonNegative = 1e-3          # ν, deviation of the noise beside u                  [official code]
    protection: NonNegative = 1.0      # κ; larger spares what matters to R                  [ours]
    every: Count = 1                   # learning steps per unlearning step                  [paper]
    lr: Positive = 1e-2                # SGD                                                 [ours; official 0.03]
    epochs: Positive = 5.0             # passes over R                                       [ours]
    batch_size: Count = 64             # examples of each term per step                      [ours]
    optimiser: Optimiser = "sgd"       # update rule                                         [official code]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [as finetune]
    clip: Positive | None = None       # largest gradient norm of a learning step            [official code: none]


def refreshed(theta: Tensor, gradient: Tensor, spare: Tensor, noise: Tensor, delta: float) -> Tensor:
    """θ + δ·P ⊙ (‖θ‖·g/‖g‖ + noise); noise alone where the gradient is zero.  [any shape] -> same

    refreshed([3, 4], [0, 2], P=[1, ½], noise=0, δ=0.1) == [3, 4.25]: 0.1·½·5.
    """
    u = theta.norm() * gradient / gradient.norm().clamp(min=1e-12)
    moved: Tensor = theta + delta * spare * (u + noise)
    return moved


@dataclass(frozen=True)
class Refreshing:
    """combine: the weights are refreshed along the forget gradient, then stepped along the retain gradient."""

    params: Sequence[nn.Parameter]
    spare: Sequence[Tensor]
    delta: float
    noise: float

    def step(
        self, terms: Sequence[str], gradients: Callable[[Sequence[str]], Gradients], apply: Callable[[Gradients], None]
    ) -> None:
        if "forget" in terms and self.delta:
            found = gradients(["forget"])
            with torch.no_grad():   # masks hold: the learning step puts masked entries back; noise is seeded per step
                for p, g, spare in zip(self.params, found, self.spare, strict=True):
                    noise = laid_out(torch.randn(p.shape, dtype=p.dtype).to(p.device), p)   # the same on every device
                    p.copy_(refreshed(p, g, spare, self.noise * noise, self.delta))
        apply(gradients(["retain"]))


@method(needs={"forget", "retain"}, uses={"nll"}, mechanism="ascent")
def run(cfg: Refresh, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    moving = loop.selected(model)
    loop.cost.examples += len(task.retain)
    batches = loop.drawn(task.retain, cfg.batch_size, "refresh")
    matters = squared_batch_gradients(model, moving, batches, task.nll)
    spare = [1 / (1 + cfg.protection * value / value.mean().clamp(min=1e-30)) for value in matters.values()]
    terms = {"forget": Term(task.forget, task.nll, every=cfg.every), "retain": Term(task.retain, task.nll)}
    loop.minimise(model, terms, over="retain", lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip,
                  combine=Refreshing(list(moving.values()), spare, cfg.delta, cfg.noise))
    return loop.finish(model)
