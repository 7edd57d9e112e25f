"""SPM: one-dimensional adapters that erase one concept and are held still for other text. Lyu, Yang, Hong, Chen, Jin, He, Xue,
Han & Ding (2024), arXiv:2312.16145 (CVPR 2024).

    y = W x + γ · (v_sᵀ x) · v_d        for every linear layer and convolution inside the transformer blocks
    L = ‖ε_{θ+M}(x_t, c) − [ε_0(x_t, c_0) − η (ε_0(x_t, c) − ε_0(x_t, c_0))]‖²  +  λ E_e ‖ε_{θ+M}(x_t, e) − ε_0(x_t, e)‖²

c prompts with the concept, c_0 the surrogate (the empty prompt, or the prompt with an anchor or a replacement), ε_0 the
original, which stays as it is, M the vectors v_s (random) and v_d (0 at first), γ = 1 the permeability, e conditions that are
to be read as before:
    noise:    Gaussian states of length ‖c‖ · U(0.8, 1.2)
    prompts:  the prompts to keep
Needs:    original, and prompts; no pictures.     Updates: v_s and v_d; the outcome is an adapter of rank 1 beside the original.
Cost:     `trajectories` full samplings and two frozen forwards per visited point, once; per step one forward/backward at c and
          one on `anchors` conditions, and one frozen forward on these.
Limits:   taken off, the original is back bit for bit; the files are a PEFT adapter of rank 1, and as LoRA for
          `load_lora_weights`.
Fails by: states with little in common with c that still bring it back (audit: `concept_inversion`); Gaussian states are nearly
          orthogonal to all text, so that "noise" holds little in place.
Deviations: x_t are from the original, cached, not from the edited model at every step, and AdamW is not in 8 bits. γ is fixed:
          facilitated transport, γ by how much a prompt resembles the concept, is not here. The official sampler accepts a
          state e with probability 1 − cos(e, c), which for Gaussian states is 1. The rate is constant after its warm-up, there
          a cosine.
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
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.maths.losses import squared_distance
from lethe.train.erasing import answered, esd_target, one_anchor, placed, rests, taken, visited
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.where.lora import Lora


@config
class SPM:
    """Options of SPM."""

    anchor: str = ""  # words in the concept's place; empty: its replacement, or none at all [e.g. square] [official code]
    eta: NonNegative = 1.0             # η, negative guidance                                       [official code]
    lamb: NonNegative = 1000.0         # λ, weight of what is read as before                        [official code]
    held: Literal["noise", "prompts"] = "noise"   # conditions e                                    [official code; ours]
    anchors: Count = 4                 # conditions e per step                                      [official code]
    lr: Positive = 1e-4                # AdamW; tiny models need about 3e-3                         [official code]
    steps: Count = 3000                # optimiser steps                                            [official code]
    batch_size: Count = 1              # points per step                                            [official code]
    trajectories: Count = 20           # over all prompts                                           [ours]
    sampler_steps: Count = 30          # steps of a trajectory                                      [official code]
    start_guidance: NonNegative = 3.0  # guidance of the trajectories; 1 for tiny models            [official code]


@method(needs={"original"}, uses={"concepts", "denoise", "predict", "prompts", "rest", "text", "tokens"},
        mechanism="distil", check=one_anchor)
def run(cfg: SPM, task: DiffusionTask, loop: Loop) -> Outcome:
    points = targeted(cfg, task, loop)
    original, device = task.original.to(loop.settings.device), loop.settings.device
    keep = task.prompts.get("keep", []) or [""]
    known = task.text(task.tokens(keep).to(device))

    def erase(model: nn.Module, batch: Batch) -> Tensor:
        return squared_distance(task.predict(model, batch.image, batch.t, task.text(batch.tokens)), batch.target)

    def hold(model: nn.Module, batch: Batch) -> Tensor:
        count, text = cfg.anchors, task.text(batch.tokens)
        here = torch.arange(len(batch)).repeat_interleave(count)
        e = known[torch.randint(len(known), (len(here),))] if cfg.held == "prompts" else gaussian_like(text[here.to(text.device)])
        x, t = batch.image[here.to(device)], batch.t[here.to(device)]
        with evaluating(original):
            before = task.predict(original, x, t, e)
        return squared_distance(task.predict(model, x, t, e), before).view(len(batch), count).mean(1)

    terms = {"erase": Term(points, erase)}
    if cfg.lamb:
        terms["hold"] = Term(points, hold, cfg.lamb)
    model = loop.start(where=Lora(rank=1, alpha=1.0, targets=membranes(original)))
    loop.minimise(model, terms, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size, optimiser="adamw", weight_decay=0.01,
                  warmup=cfg.steps // 6)
    return loop.finish(model)


def membranes(network: nn.Module) -> tuple[str, ...]:
    """Names of the linear layers and convolutions inside transformer blocks. RequestError where there are none."""
    found = tuple(name for name, module in network.named_modules() if "transformer_blocks." in name
                  and (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)))
    if not found:
        raise RequestError(f"a {type(network).__name__} has no transformer blocks, so there is nowhere to place adapters; "
                           "nothing was started. Choose another method, e.g. esd.")
    return found


def gaussian_like(text: Tensor) -> Tensor:
    """Gaussian states as long as each of the given ones, times U(0.8, 1.2).  [n, rows, d] -> [n, rows, d]"""
    drawn = torch.randn(text.shape).to(text)
    scale = (0.8 + 0.4 * torch.rand(len(text), 1, 1).to(text)) * text.flatten(1).norm(dim=1).view(-1, 1, 1)
    made: Tensor = drawn / drawn.flatten(1).norm(dim=1).view(-1, 1, 1) * scale
    return made


def targeted(cfg: SPM, task: DiffusionTask, loop: Loop) -> Split:
    """Points of the original's trajectories for prompts with the concept, and what is to be said there."""
    original, prompts = task.original.to(loop.settings.device), task.prompts["forget"]
    tokens = taken(task, prompts, cfg.trajectories)
    surrogates = taken(task, rests(task, prompts, cfg.anchor) if placed(task, cfg.anchor) else [""], cfg.trajectories)
    points = visited(task, original, tokens, derive(loop.seed, "spm"), cfg.sampler_steps, cfg.start_guidance, anchor=surrogates)

    def targets(batch: Batch) -> dict[str, Tensor]:
        cond, free = (task.predict(original, batch.image, batch.t, task.text(some))
                      for some in (batch.tokens, batch.anchor))
        return {"target": esd_target(cond, free, cfg.eta)}

    return answered(loop, points, original, targets)
