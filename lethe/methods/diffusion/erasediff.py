"""EraseDiff: keep what is retained, under the condition that the forgotten pictures are described wrongly. Wu, Le, Hayat &
Harandi (2024), arXiv:2401.05779 (CVPR 2025).

    min_θ ℓ_r(θ)  subject to  ℓ_f(θ) ≤ min ℓ_f;      step along  ∇ℓ_r + λ ∇ℓ_f
    ℓ_r = E_{(x, c)∈R} ‖ε_θ(x_t, t, c) − ε‖²
    ℓ_f = E_{(x, c)∈F} ‖ε_θ(x_t, t, c) − sg[ε_θ(x_t, t, c')]‖²   (target = prompt)
        = E_{(x, c)∈F} ‖ε_θ(x_t, t, c) − u‖², x_t = √ᾱ_t x + √(1 − ᾱ_t) u, u ~ U(0, 1)   (target = uniform)
    λ = max(0, α − cos(∇ℓ_r, ∇ℓ_f))                              (multiplier = cosine)
      = max(0, (α ‖∇ℓ_f‖² − ⟨∇ℓ_r, ∇ℓ_f⟩) / ‖∇ℓ_f‖²)             (multiplier = bome)      = α   (multiplier = constant)

F forget pictures with prompts c, R retain pictures, c' the same prompt with an anchor in the concept's place or without its
words, sg stop-gradient. With "bome" the step descends on ℓ_f at least as fast as α ∇ℓ_f alone would: ⟨∇ℓ_r + λ∇ℓ_f, ∇ℓ_f⟩ ≥ α
‖∇ℓ_f‖².
Needs:    forget, retain.     Updates: x: cross-attention (of class networks the class embedding); all: everything.
Cost:     one forward/backward on F and on R per step, and one forward more with target = prompt.
Limits:   α = 0 with multiplier = constant is `finetune`; where the gradients do not conflict, cosine and bome give λ ≤ α.
Fails by: destroying everything with target = uniform at a high rate (audit: `frechet`); retained pictures too few to hold the
          rest.
Deviations: the official code first runs K steps on ℓ_f, only to subtract the constant that they reach from ℓ_f: it has no
          gradient, so these steps are left out; there they also leave their moments in Adam. Its c' is "a photo of a pokemon".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.losses import squared_distance
from lethe.train.erasing import moved, one_anchor, with_anchors
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.combine import inner

Multiplier = Literal["cosine", "bome", "constant"]


@config
class EraseDiff:
    """Options of EraseDiff."""

    anchor: str = ""                # words in the concept's place; empty: none [e.g. square]  [official code: other prompts]
    target: Literal["prompt", "uniform"] = "prompt"   # ε̂ of forgotten pictures; class networks: uniform [official code]
    multiplier: Multiplier = "cosine"   # how λ follows from α                                        [official code]
    alpha: NonNegative = 0.1        # α; larger erases more                                           [official code]
    variant: Literal["x", "all"] = "x"   # which weights move                                         [UnlearnCanvas copy]
    lr: Positive = 1e-5             # Adam; tiny models need about 3e-4                               [official code]
    epochs: Positive = 5.0          # passes over F                                                   [official code]
    batch_size: Count = 8           # pictures of each term per step                                  [official code]


def multiplier_of(retain: list[Tensor], forget: list[Tensor], alpha: float, how: Multiplier) -> Tensor:
    """λ from ∇ℓ_r and ∇ℓ_f.  -> []

    ∇ℓ_r = (1, 0), ∇ℓ_f = (−2, 0), α = ½: cosine ½ + 1 = 1.5, bome (½·4 + 2)/4 = 1, constant ½.
    """
    both, own, other = inner(retain, forget), inner(forget, forget), inner(retain, retain)
    if how == "constant":
        return torch.full_like(both, alpha)
    along = both / (own.sqrt() * other.sqrt() if how == "cosine" else own).clamp(min=1e-30)
    return (alpha - along).clamp(min=0)


@dataclass(frozen=True)
class Constrained:
    """combine: ∇ℓ_r + λ ∇ℓ_f with λ of both gradients."""

    alpha: float
    how: Multiplier

    def step(
        self, terms: Sequence[str], gradients: Callable[[Sequence[str]], list[Tensor]], apply: Callable[[list[Tensor]], None]
    ) -> None:
        forget, retain = gradients(["forget"]), gradients(["retain"])
        factor = multiplier_of(retain, forget, self.alpha, self.how)
        apply([r + factor.to(r) * f for r, f in zip(retain, forget, strict=True)])


def wrong_prompt(task: DiffusionTask, model: nn.Module, batch: Batch) -> Tensor:
    """‖ε_θ(c) − sg ε_θ(c')‖² of each picture.  -> [n]"""
    with torch.no_grad():
        goal = task.outputs(model, batch.replace(tokens=batch.anchor))
    return squared_distance(task.outputs(model, batch), goal)


def uniform_noise(task: DiffusionTask, model: nn.Module, batch: Batch) -> Tensor:
    """The training loss with uniform noise, both in the picture and as what is to be said.  -> [n]"""
    return task.nll(model, batch.replace(noise=torch.rand(batch.noise.shape).to(batch.noise)))   # the loop seeds every step


@method(needs={"forget", "retain"}, uses={"concepts", "layers", "nll", "outputs", "rest", "tokens"}, mechanism="relabel",
        check=one_anchor)
def run(cfg: EraseDiff, task: DiffusionTask, loop: Loop) -> Outcome:
    prompts = cfg.target == "prompt"
    forget = with_anchors(task, task.forget, cfg.anchor) if prompts else task.forget
    terms = {"forget": Term(forget, partial(wrong_prompt if prompts else uniform_noise, task)),
             "retain": Term(task.retain, task.nll)}
    model = loop.start(where=moved(task, cfg.variant))
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser="adam",
                  combine=Constrained(cfg.alpha, cfg.multiplier))
    return loop.finish(model)
