"""A text-to-image pipeline as its parts, loaded from and saved to diffusers folders. Never unpickles.

A folder holds one subfolder per part, each loading with its own library:

    unet/ scheduler/ vae/       diffusers: UNet2DConditionModel, DDIMScheduler, AutoencoderKL, each .from_pretrained(…)
    text_encoder/ tokenizer/    transformers: CLIPTextModel, CLIPTokenizer

With a VAE it is a complete `StableDiffusionPipeline` folder. Without one (`vae/` missing) the UNet works on pixels in
[−1, 1]; diffusers has no pipeline class for that, and the parts load one by one as above.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.extras import needs_extra
from lethe.errors import ModelError, PickleRefused

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NEEDED = ("unet", "text_encoder", "tokenizer", "scheduler")


@dataclass
class Pipeline:
    """The parts of a pipeline. Only the UNet is ever trained; the others are held frozen."""

    unet: nn.Module
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    vae: Any = None

    def __post_init__(self) -> None:
        for part in (self.text_encoder, self.vae):
            if part is not None:
                part.requires_grad_(False).eval()
        kind = getattr(self.unet, "config", {}).get("addition_embed_type")
        if kind:
            raise ModelError(f"the UNet conditions on addition_embed_type={kind!r} (SDXL and relatives), but only one "
                             "text encoder is fed here, so its predictions would be wrong. Use a Stable Diffusion 1.x "
                             "or 2.x pipeline.")

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, cut or padded to the tokenizer's length.  -> [n, L]"""
        words = self.tokenizer
        padded = words(list(prompts), padding="max_length", truncation=True, max_length=words.model_max_length,
                       return_tensors="pt")
        ids: Tensor = padded.input_ids
        return ids

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels in [−1, 1] to what the UNet sees: scaled latents (the mean of the VAE's posterior), or the pixels."""
        if self.vae is None:
            return pixels
        with torch.no_grad():
            latents: Tensor = self.vae.encode(pixels).latent_dist.mean * self.vae.config.scaling_factor
        return latents

    def decode(self, x: Tensor) -> Tensor:
        """What the UNet sees to pixels, clamped to [−1, 1]."""
        with torch.no_grad():
            pixels: Tensor = x if self.vae is None else self.vae.decode(x / self.vae.config.scaling_factor).sample
        return pixels.clamp(-1, 1)


def require_diffusers() -> Any:
    """The diffusers module, or an error that names the extra."""
    try:
        import diffusers
    except ImportError:
        raise needs_extra("diffusion", "a text-to-image model", "diffusers", "it was not opened") from None
    return diffusers


def load_pipeline(folder: str | Path) -> Pipeline:
    """The parts in a diffusers folder; weights from safetensors only."""
    diffusers = require_diffusers()
    from transformers import CLIPTextModel, CLIPTokenizer

    place = Path(folder)
    absent = [name for name in NEEDED if not (place / name).is_dir()]
    if absent:
        raise ModelError(f"{place} has no {', '.join(absent)}/, so it is not a text-to-image pipeline folder. Expected "
                         f"subfolders: {', '.join(NEEDED)} and, for latent models, vae.")
    for name in ("unet", "text_encoder", "vae"):
        refuse_pickle(place / name)
    index = place / "scheduler" / "scheduler_config.json"
    scheduler = diffusers.DDIMScheduler.from_config(diffusers.DDIMScheduler.load_config(index))
    vae = place / "vae"
    return Pipeline(
        diffusers.UNet2DConditionModel.from_pretrained(place / "unet", use_safetensors=True),
        CLIPTextModel.from_pretrained(place / "text_encoder", use_safetensors=True),
        CLIPTokenizer.from_pretrained(place / "tokenizer"),
        scheduler,
        diffusers.AutoencoderKL.from_pretrained(vae, use_safetensors=True) if vae.is_dir() else None,
    )


def refuse_pickle(folder: Path) -> None:
    """PickleRefused when the weights in `folder` are pickles only; a folder that is absent passes."""
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise PickleRefused(f"{folder}/{pickles[0]} is a pickle, which can run code when it is loaded, and there is no "
                            "safetensors file beside it. Convert it in a safe place: load the pipeline with diffusers "
                            "there and call save_pretrained(folder, safe_serialization=True).")


def save_pipeline(pipeline: Pipeline, folder: Path) -> None:
    """Write a folder that loads without Lethe (see the module's docstring)."""
    diffusers = require_diffusers()
    if pipeline.vae is not None:
        diffusers.StableDiffusionPipeline(
            vae=pipeline.vae, text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer, unet=pipeline.unet,
            scheduler=pipeline.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        ).save_pretrained(folder, safe_serialization=True)
        return
    pipeline.unet.save_pretrained(folder / "unet", safe_serialization=True)  # type: ignore[operator]
    pipeline.text_encoder.save_pretrained(folder / "text_encoder", safe_serialization=True)
    pipeline.tokenizer.save_pretrained(folder / "tokenizer")
    pipeline.scheduler.save_pretrained(folder / "scheduler")


class Texts:
    """The frozen text encoder's states of prompts, each distinct prompt encoded once."""

    def __init__(self, encoder: Any, limit: int = 4096) -> None:
        self.encoder, self.limit = encoder, limit
        self._kept: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, tokens: Tensor) -> Tensor:
        """Hidden states of token ids.  [n, L] -> [n, L, d]"""
        rows = [tuple(row) for row in tokens.tolist()]
        new = list(dict.fromkeys(row for row in rows if row not in self._kept))
        if new:
            if len(self._kept) + len(new) > self.limit:
                self._kept.clear()
                new = list(dict.fromkeys(rows))
            device = next(self.encoder.parameters()).device
            for part in _parts(new, 64):
                with torch.no_grad():
                    states = self.encoder(torch.tensor(part, device=device))[0]
                self._kept.update(zip(part, states, strict=True))
        return torch.stack([self._kept[row] for row in rows]).to(tokens.device)


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
