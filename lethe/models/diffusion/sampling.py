"""Trajectories from noise to a picture, by the pipeline's own sampler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lethe.models.diffusion.denoiser import Denoiser

Guess = Callable[[Tensor, Tensor], Tensor]   # (x as the network sees it [n, …], t []) -> what it says [n, …]


def trajectory(denoiser: Denoiser, guess: Guess, x: Tensor, steps: int, seeds: Sequence[int]) -> Iterator[
        tuple[int | float, Tensor]]:
    """The points (t, x_t) that the network is asked at, x_t as it sees it, and last (−1, x_0).

    x      standard normal noise  [n, C, H, W]
    seeds  one a picture, of the noise that a stochastic sampler adds
    """
    scheduler = sampler(denoiser)
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
