"""Selective Amnesia: learn other pictures for the concept's prompts, held near the original where its weights matter. Heng &
Soh (2023), arXiv:2305.10120.

    L(θ) = E_{q(x|c_f)} ℓ(θ; x, c_f)  +  γ E_{(x, c)∈R} ℓ(θ; x, c)  +  (λ/2) Σ_i F_i (θ_i − θ*_i)²
    F_i = E_{(x, c)∈R} E_{t, ε} (∂ℓ(θ*; x, c)/∂θ_i)²

c_f prompts with the concept, q(x|c_f) the surrogate: uniform noise in [−1, 1], or pictures of an anchor that the original
draws; R retained pictures (generative replay: they may come from the original itself), ℓ the loss of denoising, θ* the
original weights, F_i the diagonal of the Fisher information at θ*, γ, λ ≥ 0.
Needs:    original, retain; no pictures of the concept.
Updates:  x: cross-attention (of class networks the class embedding); all: everything.
Cost:     `looks` backwards for each of up to `examples` retained pictures, once (and `images` samplings for pictures of an
          anchor); then one forward/backward on surrogates and on R per step.
Limits:   λ → ∞ changes nothing; λ = γ = 0 is fine-tuning on the surrogate.
Fails by: a surrogate of noise that reaches prompts near the concept; F is near 0 in most weights, so that they drift freely.
Deviations: F averages over `looks` random (t, ε) of a picture, not all 1000 steps of its bound. The official code multiplies
          by λ, not λ/2, and sums ℓ over pixels; here ℓ is their mean, and F that of this mean, so its λ of 10 is not ours.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Split
from lethe.maths.importance import squared_example_gradients
from lethe.train.erasing import moved, one_anchor, pictured, taken
from lethe.train.loop import Loop, Term


@config
class SelectiveAmnesia:
    """Options of Selective Amnesia."""

    surrogate: Literal["noise", "anchor"] = "noise"   # what the prompts are to draw             [official code: noise for DDPM]
    anchor: str = ""                 # words in the concept's place [only with surrogate=anchor] [e.g. square] [paper]
    gamma: NonNegative = 1.0         # γ, weight of the retained pictures                        [official code]
    lamb: NonNegative = 1e4          # λ, weight of the penalty [only with lr=0.01]      [ours; official 10, in sums]
    images: Count = 200              # surrogate pictures                                        [paper: 1000]
    examples: Count = 64             # retained pictures that F is made of [only with lr=0.01 lamb=1000000]    [ours]
    looks: Count = 4                 # draws of (t, ε) for each [only with lr=0.01 lamb=1000000 examples=4]    [ours]
    variant: Literal["x", "all"] = "all"   # which weights move                                  [official code]
    lr: Positive = 1e-5              # Adam; tiny models need about 3e-4                         [official code, SD]
    steps: Count = 1000              # optimiser steps                                           [ours]
    batch_size: Count = 8            # pictures of each term per step                            [ours]


def ewc(moving: dict[str, Tensor], before: dict[str, Tensor], fisher: dict[str, Tensor], lamb: float) -> Tensor:
    """(λ/2) Σ F (θ − θ*)².  -> []     θ = 3, θ* = 1, F = 5, λ = 2: 1 · 5 · 4 = 20."""
    total: Tensor = torch.stack([(fisher[name] * (p - before[name]).square()).sum() for name, p in moving.items()]).sum()
    return lamb / 2 * total


@method(needs={"original", "retain"}, mechanism="relabel",
        uses={"concepts", "draw_from", "layers", "nll", "prompts", "rest", "shape", "text", "tokens"}, check=one_anchor)
def run(cfg: SelectiveAmnesia, task: DiffusionTask, loop: Loop) -> Outcome:
    model = loop.start(where=moved(task, cfg.variant))
    moving = loop.selected(model)
    known = task.retain.subset(range(min(cfg.examples, len(task.retain))), "retain")
    fisher = {name: torch.zeros_like(p) for name, p in moving.items()}
    for look in range(cfg.looks):
        for name, seen in squared_example_gradients(model, moving, loop.drawn(known, 64, "fisher", look), task.nll).items():
            fisher[name] += seen / cfg.looks
        loop.cost.examples += len(known)
    before = {name: p.detach().clone() for name, p in moving.items()}

    def penalty(m: nn.Module, share: float) -> Tensor:
        return ewc(dict(loop.selected(m)), before, fisher, cfg.lamb)

    terms = {"surrogate": Term(surrogates(cfg, task, loop), task.nll)}
    if cfg.gamma:
        terms["retain"] = Term(task.retain, task.nll, cfg.gamma)
    loop.minimise(model, terms, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size, optimiser="adam",
                  penalty=penalty if cfg.lamb else None)
    return loop.finish(model)


def surrogates(cfg: SelectiveAmnesia, task: DiffusionTask, loop: Loop) -> Split:
    """Other pictures for the prompts with the concept."""
    if cfg.surrogate != "noise":
        return pictured(task, loop, cfg.anchor, cfg.images, "surrogate")
    x = 2 * torch.rand((cfg.images, *task.shape), generator=loop.generator("surrogate")) - 1
    return Split({"image": x, "tokens": taken(task, task.prompts["forget"], cfg.images)}, "surrogates")
