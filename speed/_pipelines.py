"""Folders of pipelines with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lethe.models.diffusion.pipeline import require_diffusers
from lethe.models.diffusion.small import tokenizer


def stable_diffusion(folder: Path, pixels: int = 512, blocks: tuple[int, ...] = (320, 640, 1280, 1280), width: int = 768,
                     layers: int = 12) -> None:
    """The shapes of Stable Diffusion 1.5, or, with fewer channels, its architecture in small."""
    from transformers import CLIPTextConfig, CLIPTextModel

    d = require_diffusers()
    words, small = tokenizer(length=77), blocks[0] < 320
    picture = tuple(c // 4 for c in blocks[:1]) * 4 if small else (128, 256, 512, 512)
    with torch.device("meta"):
        unet = d.UNet2DConditionModel(sample_size=pixels // 8, cross_attention_dim=width, attention_head_dim=8,
                                      block_out_channels=blocks, norm_num_groups=min(32, blocks[0]))
        vae = d.AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                              block_out_channels=picture, layers_per_block=2, latent_channels=4, sample_size=pixels,
                              norm_num_groups=min(32, picture[0]))
    text = CLIPTextModel(CLIPTextConfig(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
                                        num_attention_heads=max(1, width // 64), eos_token_id=words.eos_token_id,
                                        bos_token_id=words.bos_token_id))
    d.StableDiffusionPipeline(vae=filled(vae), text_encoder=text, tokenizer=words, unet=filled(unet), scheduler=d.PNDMScheduler(),
                              safety_checker=None, feature_extractor=None, requires_safety_checker=False).save_pretrained(folder)


def filled(model: nn.Module) -> nn.Module:
    """The model with small random numbers for weights."""
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for p in model.parameters():
            p.uniform_(-0.02, 0.02)
    return model
