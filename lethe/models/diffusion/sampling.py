"""Pictures from noise, by the pipeline's own sampler."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.modules import device_of, evaluating
from lethe.core.seeds import derive, generator
from lethe.models.diffusion.denoiser import Conditions, Denoiser

Guess = Callable[[Tensor, Tensor], Tensor]   # (x as the network sees it [n, …], t []) -> what it says [n, …]

TOGETHER = 64        # pictures that are sampled at once
PLACES = 2**21       # ... of at most so many numbers of x, all together: 32 of 64 × 64 × 4 and guidance             [ours]


class Sampler:
    """Draws with any network of a denoiser's kind. Conditions are made once for each distinct prompt."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.text = denoiser, Conditions(denoiser)

    def denoise(
        self, network: nn.Module, text: Tensor, seed: int, steps: int, guidance: float, first: int = 0
    ) -> Iterator[tuple[int | float, Tensor]]:
        """The points (t, x_t) of the trajectories from pure noise, and last (−1, x_0); text [n, rows, d].

        Picture i starts from noise that depends on (seed, first + i) only; guidance w > 1 follows ε(∅) + w·(ε(c) − ε(∅)), both
        asked in one batch; w ≤ 1 is none, as in diffusers.
        """
        device, count = device_of(network), len(text)
        noise = [torch.randn(self.denoiser.shape, generator=generator(seed, "sample", first + i)) for i in range(count)]
        said = self.guided(network, text.to(device), guidance)
        seeds = [derive(seed, "sampler", first + i) for i in range(count)]
        yield from trajectory(self.denoiser, said, torch.stack(noise).to(device), steps, seeds)

    def guided(self, network: nn.Module, text: Tensor, guidance: float) -> Guess:
        """What the sampler is told of x at t, all rows of x under guidance, conditions [n, rows, d] on the network's device."""
        predict, device = self.denoiser.predict, text.device
        if guidance <= 1.0 or self.denoiser.distilled:
            return lambda x, t: predict(network, x, t.to(device).expand(len(text)), text, guidance)
        empty = self.text(self.denoiser.tokens([""]).to(device), network).expand_as(text)
        both = torch.cat([empty, text])

        def said(x: Tensor, t: Tensor) -> Tensor:
            free, named = predict(network, torch.cat([x, x]), t.to(device).expand(len(both)), both).chunk(2)
            return free + guidance * (named - free)

        return said

    def draw(self, network: nn.Module, text: Tensor, seed: int, steps: int, guidance: float) -> Tensor:
        """What the network draws for conditions, as it sees it.  [n, rows, d] -> [n, C, H, W]"""
        parts: list[Tensor] = []
        channels, height, width = self.denoiser.shape
        together = max(1, min(TOGETHER, PLACES // (channels * height * width)))
        with evaluating(network):
            for number, some in enumerate(torch.split(text, together)):
                *_, (_, x) = self.denoise(network, some, seed, steps, guidance, number * together)
                parts.append(x.cpu())
        return torch.cat(parts)


def trajectory(
    denoiser: Denoiser, guess: Guess, x: Tensor, steps: int, seeds: Sequence[int]
) -> Iterator[tuple[int | float, Tensor]]:
    """The points (t, x_t) that the network is asked at, x_t as it sees it, and last (−1, x_0).

    x      standard normal noise  [n, C, H, W]
    seeds  one a picture, of the noise that a stochastic sampler adds
    """
    scheduler = sampler(denoiser)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)   # several schedulers pass tensors to numpy in an old way
        denoiser.set_steps(scheduler, steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    options: dict[str, Any] = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = x * float(getattr(scheduler, "init_noise_sigma", 1.0))
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        yield t.item(), seen
        x = scheduler.step(guess(seen, t), t, x, **options).prev_sample
    yield -1, x


def sampler(denoiser: Denoiser) -> Any:
    """A fresh copy of the pipeline's own scheduler, with what the pipelines of diffusers correct in old files when they load."""
    parts = denoiser.parts
    mended: dict[str, Any] = {}
    config = parts.scheduler.config
    if parts.vae is not None and config.get("clip_sample"):
        mended["clip_sample"] = False      # latents are not bounded
    if parts.vae is not None and "steps_offset" in config and parts.kind.startswith("StableDiffusionPipeline"):
        mended["steps_offset"] = 1
    return type(parts.scheduler).from_config(config, **mended)
