"""AdvUnlearn: erase from the text encoder, against tokens in front of the prompt that would bring the concept back. Zhang, Chen,
Jia, Zhang, Fan, Liu, Hong, Ding & Liu (2024), arXiv:2405.15234 (NeurIPS 2024).

    L(θ) = ‖ε(x_t, τ_θ(δ* ⊕ c)) − [ε_0(x_t, ∅) − η (ε_0(x_t, c) − ε_0(x_t, ∅))]‖² + γ ‖ε(x_t, τ_θ(k)) − ε_0(x_t, k)‖²
    δ* = argmin_δ ‖ε(x_t, τ_θ(δ ⊕ c)) − ε_0(x_t, c)‖²

c a prompt with the concept, ∅ the empty prompt, k a kept one, τ_θ the text encoder, ε the network, ε_0 both as they came
(frozen); δ ⊕ c has the vectors δ where token embeddings stand, behind the start token and in front of the prompt. x_t are points
of the original's trajectories, for c and for k. After `warm_steps` steps without δ every step searches δ*, then moves θ.
Needs:    original, and prompts, with the concept and (γ > 0) to keep; no pictures.
Updates:  moves=text: layers and last norm of the text encoder, not its embeddings; the network brings it, and pipelines are
          saved with it. x, strict, u, all: weights of the network, as `esd` names them.
Cost:     trajectories and frozen forwards once; per step `attack_steps` forward/backwards for δ, then one on both terms.
Limits:   attack_steps = 0 and gamma = 0 is ESD on the text encoder.
Fails by: whoever puts the old text encoder back, or searches text states behind it, has the whole concept: the network stays
          as it was (audit: `concept_inversion`). Without kept prompts all others suffer (audit: `erasure`, kept accuracy).
Deviations: the official code never resets the gradient of δ between its steps; here every step has its own. It samples half a
          trajectory anew for each step of δ and θ, by the edited model, which with moves=text draws as the original does for c as
          the old encoder reads it: these points are kept here, at the sampler's own steps. All prompts of a step share one δ.
          Its other places for δ (behind the prompt, within it) and its search of text states are not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Natural, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask, encoder_of, own_encoder
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.maths.losses import squared_distance
from lethe.train.erasing import OwnEncoder, answered, esd_target, moved, taken, visited
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.combine import Apply, Ask, Combine, Memory
from lethe.train.modifiers.combine.alternate import Alternate
from lethe.train.modifiers.combine.sum import Sum
from lethe.train.vectors import prefixed, with_vectors


@config
class AdvUnlearn:
    """Options of AdvUnlearn."""

    eta: NonNegative = 1.0             # η, negative guidance                                       [official code]
    gamma: NonNegative = 1.0           # γ, of kept prompts; nudity 0.3                             [official code]
    retain: Literal["joint", "alternate"] = "joint"   # in one step, or in a step of their own      [paper]
    moves: Literal["text", "x", "strict", "u", "all"] = "text"   # which weights move               [paper]
    layers: Count | None = None        # of the text encoder, the first; null: all and its last norm [e.g. 1] [paper]
    prefix: Count = 1                  # vectors in δ                                               [official code]
    attack: Literal["adam", "fast"] = "adam"   # fast: Adam on signs of gradients, for few steps    [paper]
    start: Literal["latest", "random"] = "latest"   # where δ begins: at the last one, or at random tokens [paper]
    attack_steps: Natural = 30         # towards δ*; fast needs fewer                               [official code]
    attack_lr: Positive = 1e-3         # of δ; larger where embeddings are: tiny models about 0.02  [official code]
    warm_steps: Natural = 200          # optimiser steps without δ                                  [official code]
    steps: Count = 800                 # optimiser steps with it                                    [official code]
    lr: Positive = 1e-5                # Adam; tiny models need about 3e-4                          [official code]
    batch_size: Count = 1              # points for c per step                                      [official code]
    retain_batch_size: Count = 5       # points for k per step                                      [official code]
    trajectories: Count = 20           # for c, and as many for k                                   [ours]
    sampler_steps: Count = 50          # steps of a trajectory                                      [official code]
    start_guidance: NonNegative = 3.0  # guidance of the trajectories; 1 for tiny models            [official code]


def among(name: str, layers: int | None) -> bool:
    """Whether a parameter of the text encoder stands in its first `layers`; null: in any, or in the last norm."""
    place = re.search(r"\.layers\.(\d+)\.", name)
    if place is None:
        return layers is None and "final_layer_norm" in name
    return layers is None or int(place[1]) < layers


class Attack:
    """combine: vectors are searched and stand in front of prompts, then the terms take their step.

    vectors  δ, for the losses of this step; None before the first search  [k, d]
    """

    def __init__(self, cfg: AdvUnlearn, task: DiffusionTask, loop: Loop, model: nn.Module, points: Split) -> None:
        self.cfg, self.task, self.loop, self.model, self.points = cfg, task, loop, model, points
        self.encoder = encoder_of(task, model)
        self.end: int = task.pipeline.tokenizer.eos_token_id
        self.taking: Combine = combining(cfg)
        self.vectors: Tensor | None = None
        self.memory: Memory = {}

    def __str__(self) -> str:
        return "adv_unlearn"   # what a checkpoint knows it by

    def recalling(self, params: Mapping[str, nn.Parameter], memory: Memory) -> Combine:
        self.memory = memory
        return self

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        if self.cfg.attack_steps:
            self.memory["vectors"] = self.vectors = self.searched()
        self.taking.step(terms, gradients, apply)

    def says(self, batch: Batch) -> Tensor:
        """ε(x_t, τ(δ ⊕ c)); before the first search ε(x_t, τ(c)).  -> [n, …]"""
        tokens, vectors = batch.tokens, self.vectors
        if vectors is None:
            text = self.task.text(tokens, self.model)
        else:
            ids = tokens.new_full((len(vectors),), self.end)   # only their number counts
            text = with_vectors(self.encoder, prefixed(tokens, ids, self.end), vectors)
        return self.task.predict(self.model, batch.image, batch.t, text)

    def searched(self) -> Tensor:
        """δ*.  -> [k, d]"""
        cfg, table = self.cfg, self.encoder.get_input_embeddings().weight.detach()
        vectors = self.memory.get("vectors") if cfg.start == "latest" else None
        if vectors is None:
            vectors = table[torch.randint(0, len(table), (cfg.prefix,))]   # the loop seeds every step
        found = vectors.detach().to(table).clone().requires_grad_(True)
        adam = torch.optim.Adam([found], lr=cfg.attack_lr)
        for _ in range(cfg.attack_steps):
            batch = self.points.batch(torch.randint(0, len(self.points), (cfg.batch_size,))).to(self.loop.device)
            self.vectors = found
            with self.loop.autocast():
                loss = squared_distance(self.says(batch), batch.cond).mean()
            (slope,) = torch.autograd.grad(loss, found)
            found.grad = slope.sign() if cfg.attack == "fast" else slope
            adam.step()
        return found.detach()


def combining(cfg: AdvUnlearn) -> Combine:
    """One step on both terms, or one for each."""
    return Sum() if cfg.retain == "joint" else Alternate()


def check(cfg: AdvUnlearn, task: DiffusionTask) -> None:
    """RequestError where nothing is to be kept, or the text encoder cannot be changed or does not have so much room."""
    if cfg.gamma and not task.prompts.get("keep"):
        raise RequestError("adv_unlearn keeps what the prompts of data.keep draw, and there are none, so all other prompts would "
                           "suffer; nothing was started. Provide some in data.keep, or set method.gamma=0.")
    if not task.has("deliverable encoder" if cfg.moves == "text" else "encoder"):
        raise RequestError("adv_unlearn changes the one text encoder of CLIP that a UNet reads, in a pipeline that is a folder, "
                           f"and this is a {type(task.original).__name__} that reads more, or one file; nothing was started. "
                           "Choose another method, e.g. esd.")
    length = task.tokens([""]).shape[1]
    if cfg.prefix > length - 2:
        raise RequestError(f"method.prefix={cfg.prefix} leaves no room for a prompt: {length} tokens are read, the first and the "
                           f"last are taken; nothing was started. Set it to {length - 2} or less.")


@method(needs={"original"}, uses={"denoise", "layers", "pipeline", "predict", "prompts", "text", "tokens"},
        mechanism="distil", check=check)
def run(cfg: AdvUnlearn, task: DiffusionTask, loop: Loop) -> Outcome:
    model = loop.start(where=OwnEncoder(partial(among, layers=cfg.layers)) if cfg.moves == "text" else moved(task, cfg.moves))
    if (own_encoder(model) is None) == (cfg.moves == "text"):
        raise RequestError("adv_unlearn moves the text encoder, and the modifier where chooses weights of the network; nothing "
                           "was started. Leave where out, or set method.moves=x.")
    points = targeted(cfg, task, loop)
    attack = Attack(cfg, task, loop, model, points)
    terms = {"erase": Term(points, lambda _, batch: squared_distance(attack.says(batch), batch.target))}
    if cfg.gamma:
        terms["keep"] = Term(held(cfg, task, loop), lambda m, batch: squared_distance(
            task.predict(m, batch.image, batch.t, task.text(batch.tokens, m)), batch.before), cfg.gamma,
            batch_size=cfg.retain_batch_size)
    for steps, combine in ((cfg.warm_steps, combining(cfg)), (cfg.steps, attack)):
        if steps:
            loop.minimise(model, terms, lr=cfg.lr, steps=steps, batch_size=cfg.batch_size, optimiser="adam", combine=combine)
    if cfg.moves == "text":
        loop.note("the text encoder was changed and the network was not: with the old encoder the concept is back")
    return loop.finish(model)


def targeted(cfg: AdvUnlearn, task: DiffusionTask, loop: Loop) -> Split:
    """Points of the original's trajectories for c, what it says there, and what is to be said."""
    original, tokens = task.original.to(loop.device), taken(task, task.prompts["forget"], cfg.trajectories)
    points = visited(task, original, tokens, derive(loop.seed, "adv_unlearn"), cfg.sampler_steps, cfg.start_guidance)
    empty = task.text(task.tokens([""]).to(loop.device))

    def targets(batch: Batch) -> dict[str, Tensor]:
        cond, free = (task.predict(original, batch.image, batch.t, text)
                      for text in (task.text(batch.tokens), empty.expand(len(batch), -1, -1)))
        return {"cond": cond, "target": esd_target(cond, free, cfg.eta)}

    return answered(loop, points, original, targets)


def held(cfg: AdvUnlearn, task: DiffusionTask, loop: Loop) -> Split:
    """Points of the original's trajectories for kept prompts, and what it says there."""
    original, tokens = task.original.to(loop.device), taken(task, task.prompts["keep"], cfg.trajectories)
    points = visited(task, original, tokens, derive(loop.seed, "adv_unlearn", "keep"), cfg.sampler_steps, cfg.start_guidance)
    return answered(loop, points, original, lambda batch: {
        "before": task.predict(original, batch.image, batch.t, task.text(batch.tokens))})
