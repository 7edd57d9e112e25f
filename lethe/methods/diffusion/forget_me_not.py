"""Forget-Me-Not: make the network look away from the concept's words. Zhang, Wang, Xu, Wang & Shi (2023), arXiv:2303.17591
(CVPR workshops 2024).

    L(θ) = E_{(x, c)∈F, t, ε} ‖A_θ(x_t, c)[:, P]‖_F,    x_t = √ᾱ_t x + √(1 − ᾱ_t) ε

F pictures x of the concept with their prompts c, A_θ the maps of all layers of cross-attention (softmax over the tokens of c, for
every head and every place of the picture), P the tokens of c that spell the concept, and with `ends` the end token and the
padding that repeats it, which carry it as well. ‖·‖_F is the root of the sum of squares over all of them, not squared.
Needs:    forget (pictures may come from the original itself), original.     Updates: all: everything; x: cross-attention.
Cost:     one forward/backward per step; the maps are computed beside the layers' own attention.
Limits:   only keys and queries have a gradient, of all layers up to the last of cross-attention; a prompt without the concept's
          words, and `ends` off, moves nothing.
Fails by: what is drawn when the words are not looked at is nobody's business, so that neighbours suffer (audit: `erasure`, kept
          accuracy), and the attention that the words had goes to other tokens that know of them (audit: `random_tokens`).
Deviations: no textual inversion of the concept first, which the official configuration uses: name learnt tokens as synonyms
          instead. The official norm is that of a batch of one, here of each example.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.train.erasing import looked_at, moved
from lethe.train.loop import Loop, Term


@config
class ForgetMeNot:
    """Options of Forget-Me-Not."""

    ends: bool = True                 # the end token and its repetitions are looked away from, too     [official code]
    variant: Literal["all", "x"] = "all"   # which weights move [only with lr=0.01]                     [official code]
    lr: Positive = 2e-6               # AdamW; tiny models need about 1e-4                              [official code]
    steps: Count = 35                 # optimiser steps                                                 [official code]
    batch_size: Count = 1             # pictures per step                                               [official code]
    weight_decay: NonNegative = 0.01  # of AdamW                                                        [official code]
    clip: Positive = 1.0              # largest norm of a gradient [only with lr=0.01]                  [official code]


def attention_norm(maps: Iterable[Tensor], where: Tensor) -> Tensor:
    """√(Σ A²) over layers, heads, places and the tokens of `where`.  [n, heads, h, w, L] each, [n, L] bool -> [n]

    Two layers of one head and one place, A = (0.3, 0.7) and (0.4, 0.6), the first token: √(0.09 + 0.16) = 0.5.
    """
    inside = where.view(len(where), 1, 1, 1, -1)
    taken = torch.cat([(some * inside).flatten(1) for some in maps], 1)
    found: Tensor = torch.linalg.vector_norm(taken, dim=1)
    return found


@method(needs={"forget", "original"}, uses={"attention_maps", "layers", "named_tokens", "noised", "pipeline", "text"},
        mechanism="features")
def run(cfg: ForgetMeNot, task: DiffusionTask, loop: Loop) -> Outcome:
    pictures = looked_at(task, task.forget, cfg.ends)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        maps = task.attention_maps(model, task.noised(batch), batch.t, task.text(batch.tokens)).maps
        return attention_norm(maps.values(), batch.looked_at)

    model = loop.start(where=moved(task, cfg.variant))
    loop.minimise(model, {"forget": Term(pictures, loss)}, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size,
                  optimiser="adamw", weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)
