"""All but one: change only what the concept adds to the prediction without a prompt, and pin that prediction. Hong, Lee & Woo
(2024), arXiv:2312.12807 (AAAI 2024).

    Δ_θ(x_t, c) = ε_θ(x_t, c) − ε_θ(x_t, ∅)
    L(θ) = ‖Δ_θ(x_t, c) − Δ*‖²  +  λ ‖ε_θ(x_t, ∅) − ε_0(x_t, ∅)‖²,      Δ* = −η Δ_0(x_t, c),  or Δ_0(x_t, a) with an anchor

c a prompt with the concept, ∅ the empty prompt, a the same prompt with the anchor in the concept's place, ε_0 the original
(frozen), η ≥ 0 negative guidance. Under guidance the sampler follows ε(∅) + w Δ(c), so Δ is the part of it that the concept
has; x_t are points of the original's trajectories for c, so that the layout of its pictures is kept.
Needs:    original, and prompts; no pictures.     Updates: x: cross-attention; all: everything.
Cost:     `trajectories` full samplings and two or three frozen forwards per visited point, once; per step two
          forward/backwards.
Limits:   inner = frozen with λ = 0 and η is `esd` at this η: ε_θ(∅) does not move then, and the target is ε_0(∅) − η Δ_0(c).
Fails by: inner = trained with a small λ: the loss can be met by moving ε_θ(∅) (audit: `erasure`, kept accuracy).
Deviations: the paper's full text was not available: the objective is our derivation from its abstract, and which form Δ* takes
          there is open. Purification of real pictures by inversion is not here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch
from lethe.maths.losses import squared_distance
from lethe.train.erasing import answered, moved, one_anchor, placed, rests, taken, visited
from lethe.train.loop import Loop, Term


@config
class AllButOne:
    """Options of All but one."""

    anchor: str = ""                  # words in the concept's place; empty: its replacement, or −ηΔ [e.g. square] [paper]
    eta: NonNegative = 0.0            # η, negative guidance without an anchor                      [ours]
    lamb: NonNegative = 1.0           # λ, weight of the pinned prediction                          [ours]
    inner: Literal["trained", "frozen"] = "trained"   # ε(∅) within Δ_θ: of the edited model, or of the original [ours]
    variant: Literal["x", "all"] = "x"                # which weights move                          [ours]
    lr: Positive = 1e-5               # Adam; tiny models need about 3e-4                           [ours, as ESD]
    steps: Count = 1000               # optimiser steps                                             [ours, as ESD]
    batch_size: Count = 1             # points per step                                             [ours, as ESD]
    trajectories: Count = 20          # over all prompts                                            [ours]
    sampler_steps: Count = 50         # steps of a trajectory                                       [ours, as ESD]
    start_guidance: NonNegative = 3.0  # guidance of the trajectories; 1 for tiny models            [ours, as ESD]


def surgical_loss(cond: Tensor, free: Tensor, aim: Tensor, pinned: Tensor, lamb: float, frozen: bool) -> Tensor:
    """‖(ε(c) − ε(∅)) − Δ*‖² + λ ‖ε(∅) − ε_0(∅)‖²; frozen: ε_0(∅) within the first.  [n, …] ×4 -> [n]

    ε(c) = 5, ε(∅) = 2, Δ* = 1, ε_0(∅) = 3, λ = 10: (3 − 1)² + 10 · 1 = 14; frozen (2 − 1)² + 10 = 11.
    """
    return squared_distance(cond - (pinned if frozen else free), aim) + lamb * squared_distance(free, pinned)


@method(needs={"original"}, uses={"concepts", "denoise", "layers", "predict", "prompts", "rest", "text", "tokens"},
        mechanism="distil", check=one_anchor)
def run(cfg: AllButOne, task: DiffusionTask, loop: Loop) -> Outcome:
    original, device = task.original.to(loop.settings.device), loop.settings.device
    tokens = taken(task, task.prompts["forget"], cfg.trajectories)
    anchored = placed(task, cfg.anchor)
    anchors = taken(task, rests(task, task.prompts["forget"], cfg.anchor), cfg.trajectories)
    empty = task.text(task.tokens([""]).to(device))
    points = visited(task, original, tokens, derive(loop.seed, "all_but_one"), cfg.sampler_steps, cfg.start_guidance,
                     anchor=anchors)

    def said(model: nn.Module, batch: Batch, text: Tensor) -> Tensor:
        return task.predict(model, batch.image, batch.t, text)

    def targets(batch: Batch) -> dict[str, Tensor]:
        free = said(original, batch, empty.expand(len(batch), -1, -1))
        other = said(original, batch, task.text(batch.anchor if anchored else batch.tokens))
        return {"free": free, "aim": (1.0 if anchored else -cfg.eta) * (other - free)}

    points = answered(loop, points, original, targets)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        text = torch.cat([task.text(batch.tokens), empty.expand(len(batch), -1, -1)])
        cond, free = task.predict(model, torch.cat([batch.image] * 2), torch.cat([batch.t] * 2), text).chunk(2)
        return surgical_loss(cond, free, batch.aim, batch.free, cfg.lamb, cfg.inner == "frozen")

    model = loop.start(where=moved(task, cfg.variant))
    loop.minimise(model, {"erase": Term(points, loss)}, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size, optimiser="adam")
    return loop.finish(model)
