"""Concept ablation: teach prompts with the concept to mean what the same prompts mean with an anchor in its place. Kumari,
Zhang, Wang, Shechtman, Zhang & Zhu (2023), arXiv:2303.13516.

    model:  L(θ) = E_{x, (c*, c), t, ε} ‖ε_θ(x_t, t, c*) − sg[ε_θ(x_t, t, c)]‖²  +  λ E ‖ε_θ(x_t, t, c) − ε‖²
    noise:  L(θ) = E_{x, (c*, c), t, ε} ‖ε_θ(x_t, t, c*) − ε‖²                   +  λ E ‖ε_θ(x_t, t, c) − ε‖²

c* a prompt with the concept, c the same prompt with the anchor in its place ("a red disk" -> "a red square"; without an anchor
the words are left out, "a red"), x a picture that the original draws for c, sg stop-gradient, x_t = √ᾱ_t x + √(1 − ᾱ_t) ε.
Needs:    original, and prompts; no pictures.
Updates:  keys: to_k and to_v of cross-attention; x: all of it; all: everything.
Cost:     `images` full samplings of the original, once; per step two forward/backwards, and one forward in the form "model".
Limits:   λ = 0 and teacher = frozen with the anchor left out is `mim_mu`'s alignment on pictures of the rest instead of the
          concept.
Fails by: a low unlearning accuracy where concept and anchor are alike, and on prompts unlike the ones it saw (audit:
          `erasure`).
Deviations: the official trainer resizes pictures at random and masks the border; here pictures are as they were drawn.
          Memorised pictures (other generations of one prompt as x) and the token embedding as what moves are not here. teacher
          = frozen is ours: the target of the official code moves with the weights, so that both ends of the alignment drift.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.maths.losses import squared_distance
from lethe.train.erasing import moved, one_anchor, pictured
from lethe.train.loop import Loop, Term


@config
class ConceptAblation:
    """Options of concept ablation."""

    anchor: str = ""                 # words in the concept's place; empty: none [e.g. square]          [paper: super-category]
    form: Literal["model", "noise"] = "model"           # what c* is taught: predictions for c, or noise in its pictures [paper]
    teacher: Literal["current", "frozen"] = "current"   # whose predictions for c [only with lr=0.01]    [official code]
    variant: Literal["keys", "x", "all"] = "keys"       # which weights move                            [paper]
    retain: NonNegative = 0.2        # λ, weight of the anchor's own loss                               [official code]
    images: Count = 200              # pictures of the anchor, drawn over all prompts                   [paper: 200 to 1000]
    lr: Positive = 1.6e-5            # Adam; tiny models need about 3e-4  [official code: 2e-6 × batch]
    steps: Count = 100               # optimiser steps                                                  [official code]
    batch_size: Count = 8            # pictures per step                                                [official code]


@method(needs={"original"}, uses={"concepts", "draw_from", "layers", "nll", "outputs", "prompts", "rest", "text", "tokens"},
        mechanism="distil", check=one_anchor)
def run(cfg: ConceptAblation, task: DiffusionTask, loop: Loop) -> Outcome:
    original = task.original.to(loop.settings.device)
    pictures = pictured(task, loop, cfg.anchor, cfg.images, "concept_ablation")

    def ablate(model: nn.Module, batch: Batch) -> Tensor:
        if cfg.form == "noise":
            return task.nll(model, batch)
        meant = batch.replace(tokens=batch.anchor)
        if cfg.teacher == "frozen":
            with evaluating(original):
                goal = task.outputs(original, meant)
        else:
            with torch.no_grad():
                goal = task.outputs(model, meant)
        return squared_distance(task.outputs(model, batch), goal)

    terms = {"ablate": Term(pictures, ablate)}
    if cfg.retain:
        own = {"image": pictures.columns["image"], "tokens": pictures.columns["anchor"]}
        terms["anchor"] = Term(Split(own, "own"), task.nll, cfg.retain)
    model = loop.start(where=moved(task, cfg.variant))
    loop.minimise(model, terms, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size, optimiser="adam")
    return loop.finish(model)
