"""A diffusion pipeline as its parts, opened from and written to diffusers folders. Never unpickles.

A folder holds one subfolder per part, and `model_index.json` says which class each has; without it the parts are known by the
names of their folders:

    unet/ or transformer/ the network, scheduler/, vae/ (optional)        classes of diffusers
    text_encoder/, tokenizer/, also with _2 and _3 (optional)             classes of transformers

Without a VAE the network works on pixels in [−1, 1]; diffusers has no text-to-image pipeline class for that, and the parts load
one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.extras import needs_extra
from lethe.models.diffusion.one_file import OneFile
from lethe.models.source import Source


@dataclass
class Pipeline:
    """The parts of a pipeline. Only the network is ever trained; the others are held frozen.

    others  further encoders and tokenizers by the name of their folder: text_encoder_2, tokenizer_2, …
    kind    class of diffusers that the folder names; empty where there is none
    options what `model_index.json` says beside the parts, e.g. id2label
    size    of pictures, in pixels a side; 0: what the network was made for
    source  where it was opened; None: made in memory
    """

    network: nn.Module
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    vae: Any = None
    others: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    source: Source | OneFile | None = None
    size: int = 0

    def __post_init__(self) -> None:
        for part in (self.text_encoder, self.vae, *self.others.values()):
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels in [−1, 1] to what the network sees: scaled latents (the mean of the VAE's posterior), or the pixels."""
        if self.vae is None:
            return pixels
        with torch.no_grad():
            given = self.vae.encode(pixels.to(_place(self.vae)))
            latents: Tensor = given.latent_dist.mean if hasattr(given, "latent_dist") else given.latents
        shift, scale = self._scales()
        return ((latents - shift.to(latents)) * scale.to(latents)).to(pixels.device)

    def decode(self, x: Tensor) -> Tensor:
        """What the network sees to pixels, clamped to [−1, 1]."""
        if self.vae is None:
            return x.clamp(-1, 1)
        with torch.no_grad():
            pixels: Tensor = self.vae.decode(self.unscaled(x).to(_place(self.vae))).sample
        return pixels.to(x.device).clamp(-1, 1)

    def unscaled(self, x: Tensor) -> Tensor:
        """What the network sees as the VAE's own latents."""
        shift, scale = self._scales()
        return x / scale.to(x) + shift.to(x)

    @property
    def factor(self) -> int:
        """Pixels along one side of what the network sees as one."""
        return 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)

    def _scales(self) -> tuple[Tensor, Tensor]:
        """What is taken from latents, and what they are then multiplied by, as the VAE's configuration says."""
        config = self.vae.config
        shift, scale = torch.tensor(float(config.get("shift_factor") or 0.0)), torch.tensor(float(config["scaling_factor"]))
        if config.get("latents_mean") and config.get("latents_std"):
            mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1) for key in ("latents_mean", "latents_std"))
            return mean, scale / std
        return shift, scale


def _place(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def require_diffusers() -> Any:
    """The diffusers module, or an error that names the extra."""
    try:
        import diffusers
    except ImportError:
        raise needs_extra("diffusion", "a text-to-image model", "diffusers", "it was not opened") from None
    return diffusers
