"""RACE: erase as ESD does, at the text states near the prompt that would bring the concept back. Kim, Min & Yang (2024),
arXiv:2405.16341 (ECCV 2024).

    L(θ) = ‖ε_θ(x_t, c + δ*, t) − [ε_0(x_t, ∅, t) − η (ε_0(x_t, c, t) − ε_0(x_t, ∅, t))]‖²
    δ* = argmin_{‖δ‖_∞ ≤ r} ‖ε_θ(x_t, c + δ, t) − x_T‖²,      δ ← clip(δ − α sign ∇_δ, ±r), α = r/4, from δ ~ U(−r, r)

c the text states of a prompt with the concept, ∅ those of the empty prompt, ε_0 the original (frozen), x_t points of its
trajectories for c, which began at the noise x_T: the attack asks one step, not a whole sampling, to see the noise as the
original does. c + δ stays between the least and the largest entry of c.
Needs:    original, and prompts; no pictures.     Updates: x: cross-attention; all: everything.
Cost:     `trajectories` full samplings and two frozen forwards per visited point, once; per step `attack_steps`
          forward/backwards of θ for δ and one for θ; the first `warm_steps` steps need one alone.
Limits:   r = 0 is `esd`, as the first `warm_steps` steps are.
Fails by: losing pictures of prompts near the concept, the more the larger r (audit: `erasure`, kept accuracy).
Deviations: x_t are from the original, cached, not from the edited model at every step; the official code loads a finished ESD
          model where this one takes `warm_steps` steps of it. Pooled text beside the tokens' states is not attacked.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Natural, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.maths.losses import squared_distance
from lethe.train.erasing import esd_points, moved
from lethe.train.loop import Loop, Term


@config
class RACE:
    """Options of RACE."""

    eta: NonNegative = 1.0             # η, negative guidance                                       [official code]
    radius: NonNegative = 0.1          # r, largest change of an entry of the states                [official code]
    attack_steps: Count = 10           # sign-gradient steps towards δ*                             [official code]
    warm_steps: Natural = 1000         # optimiser steps without an attack                          [official code: an ESD model]
    steps: Count = 1000                # optimiser steps with it                                    [official code]
    variant: Literal["x", "all"] = "x"   # which weights move                                       [paper]
    lr: Positive = 1e-5                # Adam; tiny models need about 3e-4                          [official code]
    batch_size: Count = 1              # points per step                                            [official code]
    trajectories: Count = 20           # over all prompts                                           [ours]
    sampler_steps: Count = 50          # steps of a trajectory                                      [official code]
    start_guidance: NonNegative = 3.0  # guidance of the trajectories; 1 for tiny models            [official code]


def nearest_return(
    task: DiffusionTask, model: nn.Module, batch: Batch, text: Tensor, rows: int, radius: float, steps: int
) -> Tensor:
    """c + δ*, of which the first `rows` rows are attacked.  [n, rows + …, d] -> the same"""
    own, beside = text[:, :rows], text[:, rows:]
    low, high = own.amin(), own.amax()
    found = (own + radius * (2 * torch.rand(own.shape).to(own) - 1)).clamp(low, high)   # the loop seeds every step
    for _ in range(steps):
        found = found.detach().requires_grad_(True)
        said = task.predict(model, batch.image, batch.t, torch.cat([found, beside], 1))
        (slope,) = torch.autograd.grad(squared_distance(said, batch.start).sum(), found)
        near = found.detach() - radius / 4 * slope.sign()
        found = (own + (near - own).clamp(-radius, radius)).clamp(low, high)
    return torch.cat([found.detach(), beside], 1)


@method(needs={"original"}, uses={"denoise", "layers", "predict", "prompts", "text", "tokens", "words"}, mechanism="distil")
def run(cfg: RACE, task: DiffusionTask, loop: Loop) -> Outcome:
    points = targeted(cfg, task, loop)
    rows = sum(words.states.shape[1] for words in task.words(task.tokens([""])))

    def loss(model: nn.Module, batch: Batch, attacked: bool = True) -> Tensor:
        text = task.text(batch.tokens)
        if attacked:
            text = nearest_return(task, model, batch, text, rows, cfg.radius, cfg.attack_steps)
        return squared_distance(task.predict(model, batch.image, batch.t, text), batch.target)

    model = loop.start(where=moved(task, cfg.variant))
    for steps, attacked in ((cfg.warm_steps, False), (cfg.steps, True)):
        if steps:
            loop.minimise(model, {"erase": Term(points, partial(loss, attacked=attacked))}, lr=cfg.lr, steps=steps,
                          batch_size=cfg.batch_size, optimiser="adam")
    return loop.finish(model)


def targeted(cfg: RACE, task: DiffusionTask, loop: Loop) -> Split:
    """Points of the original's trajectories, the noise that each began at, and what is to be said there."""
    points = esd_points(task, loop, "race", cfg.eta, cfg.trajectories, cfg.sampler_steps, cfg.start_guidance)
    image, count = points.columns["image"], cfg.trajectories
    start = image[:count].repeat(len(image) // count, *[1] * (image.dim() - 1))   # the first step's x_t is x_T
    return Split({**points.columns, "start": start}, points.name)
