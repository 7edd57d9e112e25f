"""Few-shot erasing: from a handful of pictures the text encoder learns to say of the concept what draws it badly. Fuchi & Takagi
(2024), "Erasing Concepts from Text-to-Image Diffusion Models with Few-shot Unlearning", arXiv:2405.07288 (BMVC 2024).

    L(ψ) = − E_{(x, c)∈S, t, ε} ‖ε_θ(x_t, t, E_ψ(c)) − ε‖²,    x_t = √ᾱ_t x + √(1 − ᾱ_t) ε

S a few pictures x of the concept with their captions c, E_ψ the text encoder, ε_θ the network
(frozen; where it predicts velocities, its own target takes the place of ε). What is drawn instead is nobody's choice.
Needs:    forget (the pictures; none with pictures = 0), original, and prompts with the concept; no retained data.
Updates:  layers = mlp_final: the perceptrons of all layers of the text encoder and the attention of its last; the network
          brings it, and pipelines are saved with it.
Cost:     one forward/backward through network and encoder per step: epochs · ⌈|S| / batch⌉ steps in all.
Limits:   epochs → 0 is the original; pictures = 0 is the zero-shot variant, in which noise stands for pictures.
Fails by: nothing bounds the loss: with more epochs every prompt goes, unless `alike` ends the run (audit: `erasure`, kept
          accuracy). Where the encoder knows little of the concept it erases badly: on the preset, whose encoder was never
          trained, 0.78, 0.13 and 0.56 of three seeds (4 pictures, 10 steps of 4e-4, 1 s; card: 0.85), with 0.78 of kept shapes
          left of 0.94 and 0.42 of kept colours; of attention alone 0.20, of all weights 0.17. alike = 0.95 ends it after 4
          steps: 0.36 erased, kept shapes 0.87. With its watchdog on, the run then ends with the original.
          The network stays as it was: whoever puts the old text encoder back has the whole concept.
Deviations: the official code means to freeze the rest of the encoder, but sets an attribute that does not exist, so that all
          of it moves, embeddings as well (layers = all). Its Adam has β₂ = 0.98 and weight decay 1e-8; here 0.999 and none. The
          encoder stays in eval mode (CLIP has no dropout). Its zero-shot pictures are uniform in [0, 1]; here normal. `alike`
          has no counterpart: there one chooses among checkpoints by eye. Prompts are the captions, not 27 templates at random.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Natural, Positive, config
from lethe.core.families.diffusion import DiffusionTask, own_encoder
from lethe.core.modules import device_of
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.train.erasing import OwnEncoder, taken
from lethe.train.loop import Loop, Term

Layers = Literal["mlp_final", "mlp", "attention", "all"]


@config
class FewShot:
    """Options of few-shot erasing."""

    pictures: Natural = 4          # |S|, of the forget set; 0: noise in their place                    [paper]
    layers: Layers = "mlp_final"   # of the text encoder: which weights move; all: what the code does   [paper]
    alike: Fraction = 0.0          # least cosine of the prompts' states to what they were, at which it ends; 0: never  [ours]
    lr: Positive = 1e-5            # Adam; tiny models need about 4e-4                                  [official code]
    epochs: Positive = 5.0         # passes over S                                                      [official code]
    batch_size: Count = 2          # pictures per step                                                  [official code]


def moves(name: str, layers: Layers, last: int) -> bool:
    """Whether a parameter of the text encoder moves; `last` is the number of its last layer."""
    mlp, attention = ".mlp." in name, ".self_attn." in name
    final = attention and f".layers.{last}." in name
    return {"mlp_final": mlp or final, "mlp": mlp, "attention": attention, "all": True}[layers]


def likeness(states: Tensor, before: Tensor) -> Tensor:
    """Mean over prompts of the cosine of all their states together.  [n, L, d] ×2 -> []

    Two tokens of one dimension: (3, 4) and (4, 3) have 24/25.
    """
    return F.cosine_similarity(states.flatten(1), before.flatten(1), dim=1).mean()


def check(cfg: FewShot, task: DiffusionTask) -> None:
    """RequestError where the text encoder cannot be changed and delivered."""
    if not task.has("deliverable encoder"):
        raise RequestError("few_shot changes the one text encoder of CLIP that a UNet reads, in a pipeline that is a folder, and "
                           f"this is a {type(task.original).__name__} that reads more, or one file; nothing was started. Choose "
                           "another method, e.g. esd.")


@method(needs={"forget", "original"}, uses={"nll", "pipeline", "prompts", "shape", "text", "tokens"}, mechanism="ascent",
        check=check)
def run(cfg: FewShot, task: DiffusionTask, loop: Loop) -> Outcome:
    names = [name for name, _ in task.pipeline.text_encoder.named_parameters()]
    last = max(int(place[1]) for name in names if (place := re.search(r"\.layers\.(\d+)\.", name)))
    model = loop.start(where=OwnEncoder(partial(moves, layers=cfg.layers, last=last)))
    if own_encoder(model) is None:
        raise RequestError("few_shot moves the text encoder, and the modifier where chooses weights of the network; nothing was "
                           "started. Leave where out.")
    tokens = task.tokens(task.prompts["forget"]).to(device_of(model))
    before = task.text(tokens)

    def enough(m: nn.Module) -> bool:
        return bool(likeness(task.text(tokens, m), before) < cfg.alike)

    terms = {"forget": Term(shown(cfg, task, loop), lambda m, batch: -task.nll(m, batch))}
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser="adam", asked_every=1,
                  until=enough if cfg.alike else None)
    loop.note("the text encoder was changed and the network was not: with the old encoder the concept is back")
    return loop.finish(model)


def shown(cfg: FewShot, task: DiffusionTask, loop: Loop) -> Split:
    """S: pictures of the forget set at random; noise of their scale where there are to be none."""
    rng = loop.generator("few_shot")
    if cfg.pictures:
        return task.forget.subset(torch.randperm(len(task.forget), generator=rng)[: cfg.pictures], "forget")
    tokens = taken(task, task.prompts["forget"], cfg.batch_size)
    return Split({"image": torch.randn(cfg.batch_size, *task.shape, generator=rng), "tokens": tokens}, "noise")
