"""What a text-to-image model draws out of pictures that are given in part: noised, or with a region held."""

from __future__ import annotations

import torch
from torch import Tensor

from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import evaluating
from lethe.core.seeds import generator
from lethe.maths.ddim import Levels, descent, redrawn
from lethe.pools.subject import Subject


def noises(images: Tensor, seed: int) -> Tensor:
    """Noise of each picture, a function of (seed, its place) alone.  -> [n, C, H, W]"""
    return torch.stack([torch.randn(image.shape, generator=generator(seed, "completion", i)) for i, image in enumerate(images)])


def continued(
    task: DiffusionTask, subject: Subject, images: Tensor, noise: Tensor, text: Tensor, strength: float,
    known: Tensor | None = None,
) -> Tensor:
    """Pictures noised to `strength`·T and denoised by DDIM; where `known` is 1 they are held to `images`.  -> [n, C, H, W]

    known  [n or 1, 1 or C, H, W]
    """
    times = descent(strength, task.steps, len(task.alphas_cumprod))
    bound = 1.0 if task.pipeline.vae is None else None
    parts = []
    with evaluating(subject.model.to(subject.device)):
        for start in range(0, len(images), subject.batch_size):
            some = slice(start, start + subject.batch_size)
            image, stirred, states = (rows[some].to(subject.device) for rows in (images, noise, text))
            held = known if known is None or len(known) == 1 else known[some]

            def said(x: Tensor, t: int, states: Tensor = states) -> Tensor:
                return task.guided_noise(subject.model, x, torch.tensor(t, device=x.device), states)

            def levels(t: int, like: Tensor = image) -> Levels:
                return task.levels(torch.tensor([t], device=like.device), like[:1])

            parts.append(redrawn(said, image, stirred, times, levels, bound, held).cpu())
    return torch.cat(parts)
