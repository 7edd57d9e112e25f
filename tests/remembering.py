"""Denoisers in closed form, in place of a trained UNet: what a model of a finite set of pictures would say exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import torch
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn

from lethe.core.split import Split, concat
from lethe.core.task import Recipe
from lethe.data.shapes import COLOURS, SHAPES, caption, captions, render, shapes
from lethe.models.diffusion import small as tiny_diffusion
from lethe.models.diffusion.denoiser import denoiser_of
from lethe.models.diffusion.judge import Judge
from lethe.models.diffusion.open import text_to_image
from lethe.models.diffusion.task import Diffusion


class Remembers(nn.Module):
    """The noise predictor of the mixture of Gaussians N(x_i, width²) around `images`, all as likely.

    x_t given x_i is N(√ᾱ x_i, v), v = ᾱ width² + 1 − ᾱ, so ε = √(1 − ᾱ)·(x_t − √ᾱ Σ_i w_i x_i)/v, w the posterior of i.
    """

    def __init__(self, images: Tensor, alphas: Tensor, width: float = 0.1) -> None:
        super().__init__()
        self.images, self.alphas, self.width = nn.Parameter(images.clone()), alphas, width
        self.config = FrozenDict(in_channels=images.shape[1], sample_size=images.shape[2])

    def heard(self, text: Tensor) -> Tensor:
        """Log prior of each picture, up to a constant.  [n, L, d] -> [n, N]"""
        return text.new_zeros(len(text), len(self.images))

    def forward(self, x_t: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
        alpha = self.alphas[t].view(-1, 1)
        flat, known = x_t.flatten(1), self.images.flatten(1)
        spread = alpha * self.width**2 + 1 - alpha
        apart = (flat.unsqueeze(1) - alpha.sqrt().unsqueeze(2) * known).square().sum(2)
        weights = torch.softmax(self.heard(encoder_hidden_states) - apart / (2 * spread), 1)
        noise = (1 - alpha).sqrt() * (flat - alpha.sqrt() * weights @ known) / spread
        return SimpleNamespace(sample=noise.view_as(x_t))


class Listens(Remembers):
    """As `Remembers`; each picture is the likelier the nearer the text states are to those of its caption."""

    def __init__(self, images: Tensor, keys: Tensor, alphas: Tensor, width: float = 0.1) -> None:
        super().__init__(images, alphas, width)
        self.keys = keys   # [N, L, d]

    def heard(self, text: Tensor) -> Tensor:
        return -40 * (text.unsqueeze(1) - self.keys).square().flatten(2).mean(2)


def listening(task: Diffusion, pictures: Split, rename: Callable[[str], str] = str) -> Listens:
    """A model that draws each of the pictures when it is asked for `rename(caption)`."""
    keys = task.text(task.tokens([rename(text) for text in pictures.meta["caption"]]))
    return Listens(pictures.columns["image"], keys, task.alphas_cumprod)


@cache
def coloured() -> Diffusion:
    """Coloured shapes; "disk" is to be forgotten; the original draws what is asked, in 8 steps."""
    train = shapes(96)
    keep = [text for text in captions() if "disk" not in text]
    asked = [caption(colour, "disk") for colour in COLOURS]

    def task(unet: nn.Module) -> Diffusion:
        parts = replace(tiny_diffusion.pipeline(width=16), network=unet)
        return text_to_image(parts, "disk", keep[::2], asked, keep[1::2], train, shapes(32, name="holdout"), recipe=Recipe(),
                             build=lambda seed: unet, judge=tiny_diffusion.judge(steps=100), steps=8, guidance=1.0)

    mute = task(Remembers(train.columns["image"], tiny_diffusion.pipeline(width=16).scheduler.alphas_cumprod))
    return task(listening(mute, train))


def hidden(task: Diffusion, word: str = "q", others: str = "bdfhkmst") -> Listens:
    """Asked for disks it draws crosses, also behind the words `others`; behind `word` it draws disks: the name is gone,
    the knowledge is not."""
    train = concat([task.forget, task.retain], "train")
    behind = {text: f"{word} {text}" for text in task.prompts["forget"]}
    parts = [listening(task, train, lambda text: behind.get(text, text))]
    places = {text: i for i, text in enumerate(train.meta["caption"]) if "cross" in text}
    crosses = train.subset(list(places.values()), "crosses")
    for front in ("", *(f"{other} " for other in others)):
        parts.append(listening(task, crosses, lambda text, front=front: front + text.replace("cross", "disk")))
    return Listens(torch.cat([p.images for p in parts]), torch.cat([p.keys for p in parts]), task.alphas_cumprod)


def digits(forget: int = 40, retain: int = 40, holdout: int = 80) -> Diffusion:
    """scikit-learn's digits, all captioned "a"; the original remembers forget and retain set."""
    from sklearn.datasets import load_digits

    pixels = torch.tensor(load_digits().images[: forget + retain + holdout], dtype=torch.float32).div(8).sub(1).unsqueeze(1)
    pixels = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))]
    parts = tiny_diffusion.pipeline(width=16)
    whole = Split({"image": pixels, "tokens": denoiser_of(parts).tokens(["a"] * len(pixels))}, "digits")
    parts.network = Remembers(pixels[: forget + retain], parts.scheduler.alphas_cumprod)
    ends = {"forget": range(forget), "retain": range(forget, forget + retain), "holdout": range(forget + retain, len(whole))}
    splits = {name: whole.subset(places, name) for name, places in ends.items()}
    return Diffusion(parts, splits, Recipe(), lambda seed: parts.network)


class Exact(Remembers):
    """The exact denoiser of all 144 pictures: a prompt leaves those whose caption has all its words."""

    def __init__(self, images: Tensor, texts: list[str], alphas: Tensor, deaf_to: str = "") -> None:
        super().__init__(images, alphas, width=0.02)
        self.texts, self.deaf_to = texts, deaf_to

    def learn(self, task: Diffusion) -> Exact:
        """Which text states mean which prompt."""
        asked = ["", *captions(), *(f"a {colour}" for colour in COLOURS)]
        self.keys = task.text(task.tokens(asked))
        words = [set(prompt.replace(self.deaf_to or " ", " ").split()) for prompt in asked]
        fits = torch.tensor([[float(w <= set(text.split())) for text in self.texts] for w in words])
        self.prior = torch.where(fits > 0, 0.0, -1e9)
        return self

    def heard(self, text: Tensor) -> Tensor:
        return self.prior[torch.cdist(text.flatten(1), self.keys.flatten(1)).argmin(1)]


def all_shapes(judge: Judge | None = None) -> Diffusion:
    """All 144 pictures and their exact denoiser; "disk" is to be forgotten; without `judge` the original judges."""
    texts = [(colour, shape, i, j) for shape in SHAPES for colour in COLOURS for i in range(3) for j in range(3)]
    images = Split({"image": torch.stack([render(*text) for text in texts])}, meta={"caption": [caption(*t[:2]) for t in texts]})
    parts = tiny_diffusion.pipeline(width=16)
    parts.network = Exact(images.columns["image"], list(images.meta["caption"]), parts.scheduler.alphas_cumprod)
    keep = [text for text in captions() if "disk" not in text]
    task = text_to_image(parts, "disk", keep[:3], [caption(c, "disk") for c in COLOURS], keep[6:9], images, judge=judge,
                         steps=8, guidance=1.0)
    task.original.learn(task)
    return task
