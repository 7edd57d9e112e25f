"""DoCo: make what is drawn for the concept indistinguishable from what is drawn for an anchor, without working against what is
kept. Wu, Zhou, Yang, Wang, Chang, Zhang, Chen, Wang & Yang (2025), arXiv:2405.15304 (AAAI 2025).

    D:  min_D  BCE(D(x̂_0(x_t, c)), real) + BCE(D(x̂_θ(x_t, c*)), drawn)
    θ:  step along  g_a − [g_a·g_b < 0] (g_a·g_b/‖g_b‖²) g_b,      g_a = ∇ BCE(D(x̂_θ(x_t, c*)), real),   g_b = ∇ ‖ε_θ(x_t, c)
    − ε‖²

c* a prompt with the concept, c the same prompt with the anchor in its place (or without the words), x a picture that the
original draws for c, x̂(x_t, c) = (x_t − n_t ε(x_t, c))/s_t what a prediction says the picture is, D a critic of patches,
trained along; both gradients clipped to length 1 and compared tensor by tensor. Domains are aligned, not predictions one by
one, so that prompts that were not listed follow. The first `warm_steps` steps train D alone.
Needs:    original, and prompts; no pictures.     Updates: x: cross-attention; keys: its to_k and to_v; all: everything.
Cost:     `images` full samplings of the original, once; per step two forward/backwards of θ, one of D for it, and two of D for
          D, with two frozen forwards.
Limits:   where the two gradients agree the step is that of the critic alone; surgery = none always takes that.
Fails by: a critic that always wins gives no direction; x̂ at high noise is blurred, so that D sees little there.
Deviations: the released projection multiplies g_b/‖g_b‖ by the cosine, not by ‖g_a‖ cos: surgery = cosine. D normalises over
          groups, not over the batch, has as many strides as its pictures allow, and shares Adam's β with θ; its gradient never
          gathers what the other player's backward leaves, as it does there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lethe.core.config import Count, Natural, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.train.erasing import moved, one_anchor, pictured
from lethe.train.loop import Loop, Term

CRITIC = "critic"      # name of D while the run lasts
WIDTHS = (64, 128, 256, 512)
Surgery = Literal["exact", "cosine", "none"]


@config
class DoCo:
    """Options of DoCo."""

    anchor: str = ""                  # words in the concept's place; empty: none [e.g. square]     [paper: super-category]
    surgery: Surgery = "exact"        # how g_a gives way to g_b                                    [paper; official code: cosine]
    variant: Literal["x", "keys", "all"] = "x"   # which weights move                               [official code]
    critic_lr: Positive = 5e-4        # Adam, of D; instances 1e-4                                  [official code: styles]
    images: Count = 200               # pictures of the anchor, drawn over all prompts              [official code: 200 to 1000]
    warm_steps: Natural = 1000        # steps of D alone                                            [official code]
    lr: Positive = 6e-6               # Adam, of θ; tiny models need about 3e-4                     [official code]
    steps: Count = 1000               # steps of both after that                                    [official code: 2000 in all]
    batch_size: Count = 8             # pictures per step                                           [official code]


class Critic(nn.Module):
    """D: convolutions of stride 2, then one number for each patch.  [n, C, H, W] -> [n, patches]

    Its weights are held divided by `ratio`, so that Adam's steps at the rate of θ are steps at its own.
    """

    def __init__(self, channels: int, side: int, ratio: float, rng: torch.Generator) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in WIDTHS[: max(1, min(len(WIDTHS), side.bit_length() - 2))]:
            norm = [nn.GroupNorm(8, width)] if layers else []
            layers += [nn.Conv2d(channels, width, 4, 2, 1), *norm, nn.LeakyReLU(0.2)]
            channels = width
        self.body, self.ratio = nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, 1, 1)), ratio
        with torch.no_grad():
            for name, p in self.body.named_parameters():
                if p.dim() > 1:
                    p.copy_(0.02 * torch.randn(p.shape, generator=rng))      # as PatchGAN begins
                elif name.endswith("bias"):
                    p.zero_()
                p.div_(ratio)

    def forward(self, x: Tensor) -> Tensor:
        whole = {name: self.ratio * p for name, p in self.body.named_parameters()}
        said: Tensor = functional_call(self.body, whole, (x,))
        return said.flatten(1)


def yielded(own: Tensor, other: Tensor, how: Surgery) -> Tensor:
    """g_a without its part against g_b, both clipped to length 1.  [any shape] ×2 -> the same

    g_a = (½, 0), g_b = (−½, ½): exact (½, 0) + ½ (−½, ½) = (¼, ¼); cosine (½, 0) + 1/√2 (−1/√2, 1/√2) = (0, ½).
    """
    a: Tensor = own / own.norm().clamp(min=1.0)
    b: Tensor = other / other.norm().clamp(min=1.0)
    along, size = (a * b).sum(), b.norm().clamp(min=1e-12)
    if how == "none" or float(along) >= 0:
        return a
    part = along / size**2 if how == "exact" else along / (size**2 * a.norm().clamp(min=1e-12))
    less: Tensor = a - part * b
    return less


@dataclass(frozen=True)
class Turns:
    """combine: θ by the critic, giving way to what is kept; then the critic."""

    how: Surgery

    def step(
        self, terms: Sequence[str], gradients: Callable[[Sequence[str]], list[Tensor]], apply: Callable[[list[Tensor]], None]
    ) -> None:
        if "fool" in terms:
            keep = gradients(["keep"])
            apply([yielded(a, b, self.how) for a, b in zip(gradients(["fool"]), keep, strict=True)])
        apply(gradients(["critic"]))


@method(needs={"original"}, mechanism="distil", check=one_anchor, uses={
    "concepts", "draw_from", "layers", "nll", "noised", "predict_picture", "prompts", "rest", "shape", "text", "tokens"})
def run(cfg: DoCo, task: DiffusionTask, loop: Loop) -> Outcome:
    original = task.original.to(loop.settings.device)
    pictures = pictured(task, loop, cfg.anchor, cfg.images, "doco")
    model = loop.start(where=moved(task, cfg.variant))
    network = frozenset(loop.selected(model))
    channels, height, width = task.shape
    critic = Critic(channels, min(height, width), cfg.critic_lr / cfg.lr, loop.generator("doco", "critic"))
    model.add_module(CRITIC, critic.to(loop.settings.device))
    own = frozenset(f"{CRITIC}.{name}" for name, _ in critic.named_parameters())
    loop.include(model, *own)

    def clean(m: nn.Module, batch: Batch) -> Tensor:
        return task.predict_picture(m, task.noised(batch), batch.t, task.text(batch.tokens, m))

    def judged(m: nn.Module, x: Tensor, label: float) -> Tensor:
        said = m.get_submodule(CRITIC)(x)
        return nn.functional.binary_cross_entropy_with_logits(said, torch.full_like(said, label), reduction="none").mean(1)

    def learn(m: nn.Module, batch: Batch) -> Tensor:
        with evaluating(original):
            real = clean(original, batch.replace(tokens=batch.anchor))
        with torch.no_grad():
            drawn = clean(m, batch)
        return judged(m, real.clone(), 0.0) + judged(m, drawn, 1.0)

    terms = {"critic": Term(pictures, learn, moves=own)}
    minimise = partial(loop.minimise, lr=cfg.lr, batch_size=cfg.batch_size, optimiser="adam", combine=Turns(cfg.surgery))
    if cfg.warm_steps:
        minimise(model, terms, steps=cfg.warm_steps)
    fool = Term(pictures, lambda m, b: judged(m, clean(m, b), 0.0), moves=network)
    keep = Term(Split({"image": pictures.columns["image"], "tokens": pictures.columns["anchor"]}, "own"), task.nll, moves=network)
    minimise(model, {"fool": fool, "keep": keep, **terms}, steps=cfg.steps)
    delattr(model, CRITIC)
    return loop.finish(model)
