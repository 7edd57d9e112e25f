"""SDD: teach the model to draw, for prompts with the concept, what it draws itself without a prompt. Kim et al. 2023,
arXiv:2307.05977.

    L(θ) = E_{(x, c)∈F, t, ε} ‖ε_θ(x_t, t, c) − sg[ε_θ(x_t, t, ∅)]‖²,    x_t = √ᾱ_t x + √(1 − ᾱ_t) ε

F pictures x of the concept with their prompts c, ∅ the empty prompt, sg stop-gradient.
Needs:    forget (pictures may come from the original itself).     Updates: cross-attention weights.
Cost:     one forward/backward and one forward of θ per step.
Limits:   at the first step the gradient is that of `mim_mu`, whose target stays frozen.
Fails by: the target moves with the weights, so nothing holds the unconditional prediction in place and other concepts
          are dragged along (audit: `erasure`, kept accuracy).
Deviations: x_t are noised pictures, not partial samples of the edited model. The paper returns the average of the
          weights: add the modifier average=ema.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.losses import squared_distance
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.where.names import Names


@config
class SDD:
    """Options of SDD."""

    lr: Positive = 1e-5           # Adam; tiny models need about 3e-4                   [ours, as ESD]
    epochs: Positive = 30.0       # passes over F                                       [ours, as MiM-MU]
    batch_size: Count = 8         # pictures per step                                   [ours]


def sdd_loss(conditional: Tensor, unconditional: Tensor) -> Tensor:
    """Mean squared difference per example; no gradient through the second.  [n, …] ×2 -> [n]"""
    return squared_distance(conditional, unconditional.detach())


@method(needs={"forget"}, uses={"layers", "outputs", "tokens"}, mechanism="distil")
def run(cfg: SDD, task: DiffusionTask, loop: Loop) -> Outcome:

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        empty = task.tokens([""]).to(batch.tokens.device).expand_as(batch.tokens)
        with torch.no_grad():
            target = task.outputs(model, batch.replace(tokens=empty))
        return sdd_loss(task.outputs(model, batch), target)

    model = loop.start(where=Names(task.layers("cross")))
    loop.minimise(model, {"forget": Term(task.forget, loss)}, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser="adam")
    return loop.finish(model)
