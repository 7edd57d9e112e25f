"""ESD: teach the model to draw, for prompts with the concept, away from what the original draws for them. Gandikota et al.
2023, arXiv:2303.07345.

    L(θ) = ‖ε_θ(x_t, c, t) − [ε_b − η · (ε_0(x_t, c, t) − ε_0(x_t, ∅, t))]‖²

c a prompt with the concept, ∅ the empty prompt, ε_0 the original (frozen) noise prediction, η ≥ 0 negative guidance,
ε_b = ε_0(x_t, ∅, t). With a host prompt h ("erase from"), θ is conditioned on h, ε_b = ε_0(x_t, h, t) and x_t comes
from h. x_t are points of sampling trajectories for c from pure noise, at every sampler step equally often.
Needs:    original, and prompts; no pictures at all.
Updates:  x: all cross-attention weights; strict: its to_k and to_v; u: everything else; all: everything.
Cost:     trajectory=cached: `trajectories` full samplings and two frozen forwards per visited point, once; then one
          forward/backward per step. trajectory=current: for every step half a sampling on average (two forwards per
          sampler step under guidance) and two frozen forwards.
Limits:   η = 0 is alignment with the unconditional prediction (the loss of `mim_mu` on sampled points).
Fails by: taking neighbours of the concept with it, the more the larger η and the longer the run (audit: `erasure`).
Deviations: the paper takes x_t from the model that is being edited, its later code from the original; `cached` does the
          latter and visits every point of a trajectory instead of one. The later code writes the target as ε_0(c) −
          η_code (ε_0(c) − ε_0(∅)), so η = η_code − 1. t is the sampler's own step, not a random one near it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split
from lethe.maths.losses import squared_distance
from lethe.train.erasing import esd_target, moved, taken, walked
from lethe.train.loop import Loop, Term


@config
class ESD:
    """Options of ESD."""

    eta: NonNegative = 1.0            # η, negative guidance; larger pushes further away     [paper]
    variant: Literal["x", "strict", "u", "all"] = "x"   # which weights move; paper: x for styles, u for objects [paper]
    lr: Positive = 1e-5               # Adam; tiny models need about 3e-4                    [paper]
    steps: Count = 1000               # optimiser steps                                      [paper]
    batch_size: Count = 1             # points per step                                      [paper]
    trajectory: Literal["cached", "current"] = "cached"   # x_t from the original, once; from the edited model  [ours]
    trajectories: Count = 20          # cached trajectories, over all prompts                [ours]
    sampler_steps: Count = 50         # DDIM steps of a trajectory                           [paper]
    start_guidance: NonNegative = 3.0  # guidance of the trajectories; 1 for tiny models     [official code]
    host: str = ""                    # erase the concept from this prompt only [e.g. a shape] [official code]


@method(needs={"original"}, uses={"concepts", "denoise", "layers", "predict", "prompts", "text", "tokens"},
        mechanism="distil")
def run(cfg: ESD, task: DiffusionTask, loop: Loop) -> Outcome:
    edit = Edit(cfg, task, loop)
    model = loop.start(where=moved(task, cfg.variant))
    points = edit.visited() if cfg.trajectory == "cached" else edit.asked()
    loss = edit.on_visited if cfg.trajectory == "cached" else edit.on_current
    loop.minimise(model, {"erase": Term(points, loss)}, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size,
                  optimiser="adam")
    return loop.finish(model)


class Edit:
    """The prompts of one run, and what the original predicts at points on their trajectories."""

    def __init__(self, cfg: ESD, task: DiffusionTask, loop: Loop) -> None:
        self.cfg, self.task, self.loop = cfg, task, loop
        self.original = task.original.to(loop.settings.device)
        self.prompts = [cfg.host] if cfg.host else task.prompts["forget"]
        self.concepts = [one.concept for one in task.concepts] if cfg.host else self.prompts

    def tokens(self, prompts: Sequence[str], count: int) -> Tensor:
        """Token ids of `count` prompts, taking the given ones in turn.  -> [count, L]"""
        return taken(self.task, prompts, count).to(self.loop.settings.device)

    def target(self, x: Tensor, t: Tensor, concept: Tensor, host: Tensor) -> Tensor:
        """The frozen target at points x_t."""
        task = self.task
        with torch.no_grad():
            cond = task.predict(self.original, x, t, task.text(concept))
            empty = task.tokens([""]).to(x.device).expand_as(concept)
            uncond = task.predict(self.original, x, t, task.text(empty))
            base = task.predict(self.original, x, t, task.text(host)) if self.cfg.host else None
        return esd_target(cond, uncond, self.cfg.eta, base)

    def visited(self) -> Split:
        """Every point of the original's trajectories with its target: columns image (x_t), t, tokens, target."""
        cfg, rows = self.cfg, []
        seed = derive(self.loop.seed, "esd")
        prompts, concepts = self.tokens(self.prompts, cfg.trajectories), self.tokens(self.concepts, cfg.trajectories)
        with torch.no_grad():
            for when, x in self._path(self.original, prompts, seed):
                rows.append((x.cpu(), when.cpu(), prompts.cpu(), self.target(x, when, concepts, prompts).cpu()))
        columns = dict(zip(("image", "t", "tokens", "target"), map(torch.cat, zip(*rows, strict=True)), strict=True))
        return Split(columns, "trajectories")

    def on_visited(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss at points that were visited before.  -> [n]"""
        predicted = self.task.predict(model, batch.image, batch.t, self.task.text(batch.tokens))
        return squared_distance(predicted, batch.target)

    def asked(self) -> Split:
        """The prompts alone; `t` marks that nothing is to be drawn for them."""
        count = max(len(self.prompts), self.cfg.batch_size)
        return Split({
            "tokens": self.tokens(self.prompts, count).cpu(), "concept": self.tokens(self.concepts, count).cpu(),
            "t": torch.zeros(count, dtype=torch.long),
        }, "prompts")

    def on_current(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss at a random point of a trajectory of the model that is being edited.  -> [n]"""
        cfg = self.cfg
        stop, seed = (int(torch.randint(high, ())) for high in (cfg.sampler_steps, 2**31))   # the loop seeds every step
        with torch.no_grad():
            when, x = next(islice(self._path(model, batch.tokens, seed), stop, None))
        predicted = self.task.predict(model, x, when, self.task.text(batch.tokens))
        return squared_distance(predicted, self.target(x, when, batch.concept, batch.tokens))

    def _path(self, model: nn.Module, tokens: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        return walked(self.task, model, tokens, seed, self.cfg.sampler_steps, self.cfg.start_guidance)
