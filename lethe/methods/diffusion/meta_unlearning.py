"""Meta-unlearning: erase so that whoever fine-tunes on the concept loses what is related to it instead of getting it back. Gao,
Pang, Du, Hu, Deng & Lin (2024), arXiv:2410.12777 (ICCV 2025).

    min_θ  ℓ_ESD(θ) + γ₁ ℓ(U; θ) + γ₁' ℓ(N; θ) − [γ₂ ℓ(F; θ*) + γ₂' ℓ(N; θ*) + γ₂'' ℓ(U; θ*)],    θ* = K steps of ℓ(F) from θ
    ℓ_ESD(θ) = ‖ε_θ(x_t, c) − [ε_0(x_t, ∅) − η (ε_0(x_t, c) − ε_0(x_t, ∅))]‖²,    ℓ(D; θ) = E_{(x, c)∈D} ‖ε_θ(x_t, c) − ε‖²

F forgotten pictures, with which a user fine-tunes by AdamW; N those of the retained pictures that are related to the concept, U
the others; c a prompt with the concept, x_t on the original's trajectories for it. The gradients at θ* are taken for gradients
at θ (first order); K steps are drawn anew for every step.
Needs:    forget, retain, original, prompts.     Updates: x: cross-attention (of class networks the class embedding); all: all.
Cost:     `trajectories` full samplings once; per step K forward/backwards of the user, and one for each γ that is not 0, and one.
Limits:   all of γ₂ 0 is ESD with a retain term; all γ 0 is `esd`.
Fails by: nothing destroys itself at our scale: on the preset shapes_erase (η = 1, 100 steps of 3e-4 on cross-attention against
          users of 8 steps of 1e-4) kept prompts are drawn better after a user's 40 steps of AdamW at 1e-4 on forgotten pictures
          than before. The concept comes back hardly later: with ten times γ₂ and γ₁ = 1, in three seeds, 0.02 to 0.06 of pictures
          for its prompts show it (ESD 0.05 to 0.06), 0.47 after 10 of these steps (ESD 0.57), 0.71 after 40 (0.79); with the
          published γ, one seed, 0.56 and 0.80 (ESD 0.58 and 0.81). `resalign` starts at 0.25, has 0.70 and 0.88, and keeps more.
Deviations: read from the official code (its `esd_meta.py`): the five terms and their signs, first order, AdamW with both norms
          clipped to 1, a user of one pass over pictures of F. Derived: its script gives three of its γ under one name, here they
          are read in their order. Left out: a rate that rises for 500 steps, the variant whose losses on pictures are taken at
          timesteps 1, 2, 5 and 10 and summed over whole sets, a user that moves weights which the method leaves. x_t are from
          the original, cached, not from the edited model. The paper also puts the terms behind SDD, UCE and RECE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.concepts import names
from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.maths.losses import squared_distance
from lethe.train.erasing import esd_points, fine_tuned, moved
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.combine import Apply, Ask, Recalling

CLIP = 1.0   # largest norm of a step's gradient, and of a user's                                        [official code]


@config
class MetaUnlearning:
    """Options of meta-unlearning."""

    eta: NonNegative = 3.0             # η, negative guidance                                       [official code]
    related: tuple[str, ...] = ()      # words whose retained pictures are N; none: N and U are all of R [e.g. square] [paper]
    keep: NonNegative = 0.1            # γ₁, of U before a user                                     [official code]
    keep_related: NonNegative = 0.01   # γ₁', of N before a user                                    [official code]
    lose: NonNegative = 0.1            # γ₂, of F after a user                                      [official code]
    lose_related: NonNegative = 0.1    # γ₂', of N after a user                                     [official code]
    lose_other: NonNegative = 0.01     # γ₂'', of U after a user                                    [official code]
    user_steps: Count = 10             # K                                        [ours; official code: one pass over F]
    user_lr: Positive = 1e-5           # of a user's AdamW; tiny models need about 3e-4             [official code]
    variant: Literal["all", "x"] = "all"   # which weights move                                     [official code]
    lr: Positive = 1e-5                # AdamW; tiny models need about 3e-4                         [official code]
    weight_decay: NonNegative = 1e-4   # of both                                                    [official code]
    steps: Count = 1500                # optimiser steps                                            [official code]
    batch_size: Count = 10             # of each term per step                                      [official code]
    trajectories: Count = 20           # over all prompts                                           [ours]
    sampler_steps: Count = 50          # steps of a trajectory                                      [official code]
    start_guidance: NonNegative = 3.0  # guidance of the trajectories; 1 for tiny models            [official code]


@dataclass(frozen=True)
class Ahead(Recalling):
    """combine: the gradients here, less those after a user's steps.

    now, then  names of the terms that are asked before a user's steps and after them
    """

    cfg: MetaUnlearning
    now: Sequence[str]
    then: Sequence[str]

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        cfg, params = self.cfg, list(self.params.values())
        total = [g.clone() for g in gradients(self.now)]
        if self.then:
            user = torch.optim.AdamW(params, lr=cfg.user_lr, weight_decay=cfg.weight_decay, foreach=False)
            with fine_tuned(params, user, gradients, [f"user {k}" for k in range(cfg.user_steps)], CLIP):
                total = [mine - after for mine, after in zip(total, gradients(self.then), strict=True)]
        apply(total)


def sides(task: DiffusionTask, related: Sequence[str]) -> tuple[Split, Split]:
    """N and U: retained pictures whose captions name one of the words, and the others; without words both are all."""
    if not related:
        return task.retain, task.retain
    near = torch.tensor([names(caption, related) for caption in task.captions(task.retain)])
    return task.retain.subset(near.nonzero().flatten(), "related"), task.retain.subset((~near).nonzero().flatten(), "other")


def both_sides(cfg: MetaUnlearning, task: DiffusionTask) -> None:
    """RequestError where `related` names the captions of none of the retained pictures, or of all."""
    near, other = sides(task, cfg.related)
    if not len(near) or not len(other):
        found = "all" if len(near) else "none"
        raise RequestError(f"related={list(cfg.related)}: {found} of the {len(task.retain)} captions of retained pictures name "
                           "it, so related and other pictures are not two sets; nothing was started. Name words of some "
                           "captions, or none.")


@method(needs={"forget", "retain", "original"}, mechanism="distil", check=both_sides,
        uses={"denoise", "layers", "nll", "predict", "prompts", "text", "tokens"})
def run(cfg: MetaUnlearning, task: DiffusionTask, loop: Loop) -> Outcome:
    near, other = sides(task, cfg.related)
    points = esd_points(task, loop, "meta_unlearning", cfg.eta, cfg.trajectories, cfg.sampler_steps, cfg.start_guidance)

    def erase(m: nn.Module, batch: Batch) -> Tensor:
        return squared_distance(task.predict(m, batch.image, batch.t, task.text(batch.tokens)), batch.target)

    def weighed(**sets: tuple[Split, float]) -> dict[str, Term]:
        return {name: Term(split, task.nll, weight) for name, (split, weight) in sets.items() if weight}

    now = {"erase": Term(points, erase)} | weighed(keep=(other, cfg.keep), keep_related=(near, cfg.keep_related))
    then = weighed(lose=(task.forget, cfg.lose), lose_related=(near, cfg.lose_related), lose_other=(other, cfg.lose_other))
    users = {f"user {k}": Term(task.forget, task.nll) for k in range(cfg.user_steps if then else 0)}
    model = loop.start(where=moved(task, cfg.variant))
    loop.minimise(model, now | then | users, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size, optimiser="adamw",
                  weight_decay=cfg.weight_decay, clip=CLIP, combine=Ahead(cfg, list(now), list(then)))
    return loop.finish(model)
