"""Attentive eraser: take what a mask covers out of a given picture, by letting the hole look at its surroundings alone while it
is drawn anew; the weights stay. Sun, Cui, Dong & Tang (2025), "Attentive Eraser: Unleashing Diffusion Model's Object Removal
Potential via Self-Attention Redirection Guidance", arXiv:2412.12974 (AAAI 2025).

    ε = ε_θ(x_t) + γ (ε̂_θ(x_t) − ε_θ(x_t))                 without a prompt; outside the mask x_t is the picture, noised to t
    ε̂: in self-attention A_ij = softmax_j(σ_i q_i·k_j / √d) over the j outside the mask; σ_i = s where i is inside, else 1

i, j places of the picture at the size of the layer, γ ≥ 0, s < 1 in the first steps (what fills the hole is then gathered from
many places, not from a few that resemble it), 1 later. Masks are shrunk by their maxima, so an edge belongs to the hole. An edit
starts at `strength` of the noise and takes that share of `steps`.
Needs:    original; a picture and its mask each time (`edit`).     Updates: nothing; the outcome is a guard.
Cost:     of a run, nothing; an edit is a sampling with two predictions a step.
Limits:   γ = 0 is inpainting by the original, bit for bit; a mask of nothing, and all outside a mask, give the picture back.
Fails by: leaving the model as it is: it draws the concept for every prompt, and for any picture that nobody masks. A network that
          never saw surroundings without an object has nothing to fill the hole with: on the preset shapes_erase (one original, 48
          disks in their boxes, more than half of a picture, 12 steps, 3 of them suppressed) the judge no longer sees the disk in
          0.13 at γ = 9, in 1.00 at 3 and at 1 (inpainting, γ = 0: 0.63, with other objects in the hole), but every hole is filled
          with noise, at 9 with saturated colours. The outside stays. Nothing like the paper's fillings is reproduced there.
          On a UNet of the same kind, trained for 1000 steps on 16 × 16 pictures of none to two figures on greys (one seed, 24
          disks, 20 steps, 4 suppressed), inpainting removes every disk, too; ten holes differ from the grey around them by 0.13
          (0: black, 1: white), at γ = 1 and 3 by 0.12, at 9 by 0.16, with noise again: 9 is too strong for tiny models.
Deviations: the start from noise alone (the paper's SIP); its other start, the picture inverted (DIP), is left out, and so is
          FreeU, which the official script adds. Layers are told by their place in the network, in shares, in the place of numbers
          that hold for two networks. Where a mask covers all places of a layer, it looks as usual (there: at all places alike).
          Outside the mask the result is the picture itself, also where a VAE would not give it back (there: optional, and with
          a blurred edge).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Natural, NonNegative, config
from lethe.core.families.diffusion import AroundNetwork, DiffusionTask
from lethe.core.guard import Parts
from lethe.core.modules import device_of, evaluating, hooked
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import generator
from lethe.errors import RequestError
from lethe.maths.ddim import Levels, descent, redrawn
from lethe.train.loop import Loop

TOGETHER = 16                               # pictures that are edited at once                                            [ours]
ORDER = ("down_blocks", "mid_block", "up_blocks")   # of a UNet, as it runs


@config
class AttentiveEraser:
    """Options of attentive eraser."""

    gamma: NonNegative = 9.0       # γ, how far away from what the original would draw                     [official code]
    suppression: Fraction = 0.3    # s, of the hole's similarities; 1: none                                [official code]
    suppressed: Natural = 10       # the first steps, which it is suppressed in                            [official code]
    first: Fraction = 0.486        # share of the self-attention that looks as usual; 7 of 16, 34 of 70    [official code]
    strength: Fraction = 0.8       # share of the noise that an edit starts from                           [official code]
    steps: Count = 50              # of a whole trajectory                                                 [official code]
    grow: Natural = 0              # pixels that a mask is widened by; of 1,024 about 20                   [ours; official: blur]


def holes(masks: Tensor, places: int) -> Tensor:
    """Which places of a layer a mask covers; none, where it covers all.  [n, 1, H, W] -> [n, places] bool

    4 × 4, one pixel at (0, 1), 4 places: the first of the 2 × 2.
    """
    height, width = masks.shape[-2:]
    size = round((height * width / places) ** 0.5)
    found = F.max_pool2d(masks.float(), size, ceil_mode=True).flatten(1) > 0
    if found.shape[1] != places:
        raise RequestError(f"a layer of self-attention has {places} places for pictures of {height} × {width}, so nobody knows "
                           "which of them a mask covers; nothing was changed. Give pictures of the size that the network was "
                           "made for.")
    return found & ~found.all(1, keepdim=True)


@contextmanager
def redirected(model: nn.Module, layers: Sequence[str], masks: Tensor, scale: float) -> Iterator[None]:
    """Inside, these layers of self-attention look outside the masks alone, from inside them with similarities times `scale`.

    masks  of each picture of a batch, at the size of x; one of nothing leaves its picture alone  [n, 1, H, W]
    """
    def blind(layer: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x: Tensor = args[0] if args else given["hidden_states"]
        hole = holes(masks, x.shape[1]).unsqueeze(1)
        bias = torch.zeros(hole.shape, dtype=x.dtype, device=x.device).masked_fill(hole, torch.finfo(x.dtype).min)
        return args, {**given, "attention_mask": bias}

    def flat(projection: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        return torch.where(holes(masks, out.shape[1]).unsqueeze(2), scale * out, out)

    asked = [model.get_submodule(name) for name in layers]
    with hooked(*(layer.register_forward_pre_hook(blind, with_kwargs=True) for layer in asked),
                *(layer.get_submodule("to_q").register_forward_hook(flat) for layer in asked)):
        yield


def layers_of(network: nn.Module) -> list[str]:
    """The layers of self-attention of diffusers (named attn1), as they run."""
    found = [name for name, module in network.named_modules() if name.rsplit(".", 1)[-1] == "attn1"]
    return sorted(found, key=lambda name: ORDER.index(head) if (head := name.split(".")[0]) in ORDER else 0)


class Eraser(AroundNetwork, Parts):
    """A network that draws as it always did, and beside it edits pictures."""

    layers: list[str]
    gamma: float
    suppression: float
    suppressed: int
    strength: float
    steps: int
    grow: int

    def forward(self, *given: Any, **options: Any) -> Any:
        return self.model(*given, **options)

    def edit(self, task: DiffusionTask, pictures: Tensor, masks: Tensor, seed: int = 0) -> Tensor:
        """The pictures without what the masks cover; see `Edits`."""
        size = 2 * self.grow + 1
        covered = F.max_pool2d(masks.float(), size, stride=1, padding=self.grow) > 0
        noise = [torch.randn(task.shape, generator=generator(seed, "attentive eraser", i)) for i in range(len(pictures))]
        with evaluating(self.model):
            drawn = [self._edited(task, *some) for some in zip(
                *(rows.split(TOGETHER) for rows in (pictures, covered, torch.stack(noise))), strict=True)]
        return torch.where(covered, torch.cat(drawn).to(pictures), pictures)

    def _edited(self, task: DiffusionTask, pictures: Tensor, covered: Tensor, noise: Tensor) -> Tensor:
        """A few of them, as they are decoded."""
        device = device_of(self.model)
        image, noise = task.encode(pictures).to(device), noise.to(device)
        hole = F.max_pool2d(covered.float(), covered.shape[-1] // image.shape[-1]).to(device)
        text = task.text(task.tokens([""]), self.model).to(device).expand(len(image), -1, -1)
        times = descent(self.strength, self.steps, len(task.alphas_cumprod))

        def levels(t: int) -> Levels:
            return task.levels(torch.tensor([t], device=device), image[:1])

        def said(x: Tensor, t: int) -> Tensor:
            where = torch.tensor(t, device=device).expand(len(x))
            usual = task.predict_noise(self.model, x, where, text)
            if not self.gamma:
                return usual
            scale = self.suppression if times.index(t) < self.suppressed else 1.0
            with redirected(self.model, self.layers, hole, scale):
                return usual + self.gamma * (task.predict_noise(self.model, x, where, text) - usual)

        bound = 1.0 if task.pipeline.vae is None else None
        return task.decode(redrawn(said, image, noise, times, levels, bound, 1 - hole))


def sound(cfg: AttentiveEraser, task: DiffusionTask) -> None:
    """RequestError where there is no self-attention of this kind."""
    if not layers_of(task.original):
        raise RequestError(f"attentive_eraser acts in layers of self-attention named attn1, and a {type(task.original).__name__} "
                           "has none; nothing was started. Choose a method that changes weights, e.g. esd.")


@method(needs={"original"}, mechanism="guard", check=sound,
        uses={"alphas_cumprod", "decode", "encode", "levels", "pipeline", "predict_noise", "shape", "text", "tokens"})
def run(cfg: AttentiveEraser, task: DiffusionTask, loop: Loop) -> Outcome:
    layers = layers_of(task.original)
    chosen = layers[int(cfg.first * len(layers)):]
    loop.note(f"pictures that are given with a mask are edited, by {len(chosen)} layers of self-attention; the model draws as "
              "before, and nothing was removed")
    return loop.finish(loop.start(), guard=lambda model: Eraser(
        model, layers=chosen, gamma=cfg.gamma, suppression=cfg.suppression, suppressed=cfg.suppressed, strength=cfg.strength,
        steps=cfg.steps, grow=cfg.grow))
