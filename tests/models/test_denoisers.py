"""Every kind of pipeline: Lethe draws what diffusers draws from the same folder, methods run on it, it goes out as it came in."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from diffusion_folders import FOLDERS

from lethe.core.seeds import generator
from lethe.models.diffusion.files import load_pipeline
from lethe.models.diffusion.open import text_to_image
from lethe.models.diffusion.task import Diffusion

SLOW = [pytest.param(name, marks=pytest.mark.slow) if name not in ("stable", "sd3") else name for name in FOLDERS]
PROMPTS = {"classes": ("0", "1"), "dit": ("disk", "a blue cross")}


@cache
def folder(kind: str) -> Path:
    place = Path(mkdtemp()) / kind
    FOLDERS[kind](place)
    return place


def opened(kind: str, place: Path | None = None) -> Diffusion:
    parts = dataclasses.replace(load_pipeline(place or folder(kind)), size=16 if kind == "flux" else 0)
    concept, other = PROMPTS.get(kind, ("a red disk", "a red cross"))
    images = [(torch.zeros(3, 8, 8), concept), (torch.ones(3, 8, 8), other)] if kind == "unconditional" else None
    return text_to_image(parts, concept, [other], [concept], images=images, per_prompt=2, steps=3, guidance=2.0)


def by_diffusers(kind: str, place: Path, prompt: str, guidance: float) -> torch.Tensor:
    """Pixels in [0, 1] that the pipeline of diffusers draws from the starting noise of seed 3."""
    import diffusers

    noise = generator(3, "sample", 0)
    if kind == "classes":
        pytest.skip("diffusers has no pipeline for a UNet2DModel with classes")
    pipe: Any = diffusers.DiffusionPipeline.from_pretrained(place)
    pipe.set_progress_bar_config(disable=True)
    if kind == "unconditional":
        return torch.from_numpy(diffusers.DDIMPipeline(pipe.unet, pipe.scheduler)(
            generator=noise, num_inference_steps=3, output_type="np").images).permute(0, 3, 1, 2)
    if kind == "dit":
        pipe.scheduler.register_to_config(clip_sample=False)
        said = pipe([0], guidance_scale=guidance, generator=noise, num_inference_steps=3, output_type="np").images
        return torch.from_numpy(said).permute(0, 3, 1, 2)
    given: dict[str, Any] = {"latents": torch.randn(1, 4, 8, 8, generator=noise)}
    if kind == "flux":
        given["latents"] = given["latents"].view(1, 4, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 16, 16)
        given |= {"height": 16, "width": 16}
    if kind == "inpainting":
        given |= {"image": torch.zeros(1, 3, 16, 16), "mask_image": torch.ones(1, 1, 16, 16), "height": 16, "width": 16,
                  "masked_image_latents": load_pipeline(place).encode(torch.zeros(1, 3, 16, 16))}
    if kind == "pixart":
        given["use_resolution_binning"] = False
    images: torch.Tensor = pipe(prompt, num_inference_steps=3, guidance_scale=guidance, output_type="pt", **given).images
    return images


@pytest.mark.filterwarnings("ignore::DeprecationWarning")   # diffusers' schedulers pass tensors to numpy in an old way
@pytest.mark.parametrize("kind", SLOW)
def test_it_draws_what_diffusers_draws(kind: str) -> None:
    prompt = PROMPTS.get(kind, ("a red disk",))[0]
    task, guidance = opened(kind), 1.0 if kind == "unconditional" else 2.0
    ours = (task.sample(task.original, [prompt], seed=3, steps=3, guidance=guidance) + 1) / 2
    assert torch.allclose(ours, by_diffusers(kind, folder(kind), prompt, guidance).float(), atol=2e-4)
