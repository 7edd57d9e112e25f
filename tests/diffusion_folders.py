"""A tiny folder of every kind of diffusion pipeline, made on the spot from configurations by diffusers and transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from lethe.models.diffusion.files import load_pipeline
from lethe.models.diffusion.open import text_to_image
from lethe.models.diffusion.small import tokenizer
from lethe.models.diffusion.task import Diffusion

WIDTH = 16    # of every text encoder


def clip(seed: int = 0, projection: int = 0, length: int = 8, width: int = WIDTH) -> tuple[Any, Any]:
    """A CLIP text encoder and its tokenizer.

    projection  width of the pooled text; 0: the encoder has none
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    words = tokenizer(length=length)
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=length, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id, projection_dim=projection or WIDTH,
    )
    torch.manual_seed(seed)
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config), words


def t5(width: int = WIDTH) -> tuple[Any, Any]:
    """A T5 encoder and its tokenizer, which spells every word."""
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0)]
    vocabulary += [(f"▁{word}", -1.0) for word in ("a", "red", "blue", "disk", "cross")]
    vocabulary += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    words = T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512)
    config = T5Config(vocab_size=len(words), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
                      feed_forward_proj="gated-gelu")
    torch.manual_seed(1)
    return T5EncoderModel(config), words


def vae(channels: int = 4, **options: Any) -> Any:
    from diffusers import AutoencoderKL

    torch.manual_seed(2)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 8),
        norm_num_groups=4, latent_channels=channels, sample_size=16, **options,
    )


def unet(**options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    given = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1,
             "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
             "cross_attention_dim": WIDTH, "norm_num_groups": 4, "attention_head_dim": 2}
    torch.manual_seed(3)
    return UNet2DConditionModel(**{**given, **options})


def ddim(**options: Any) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(**{"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, **options})


def stable(folder: Path, scheduler: Any = None, kind: str = "StableDiffusionPipeline", **unet_options: Any) -> None:
    import diffusers
    from transformers import CLIPImageProcessor

    encoder, words = clip()
    getattr(diffusers, kind)(
        vae=vae(), text_encoder=encoder, tokenizer=words, unet=unet(**unet_options), scheduler=scheduler or ddim(),
        safety_checker=None, feature_extractor=CLIPImageProcessor(size=16), requires_safety_checker=False,
    ).save_pretrained(folder)


def inpainting(folder: Path) -> None:
    stable(folder, kind="StableDiffusionInpaintPipeline", in_channels=9)


def sdxl(folder: Path, kind: str = "StableDiffusionXLPipeline", **unet_options: Any) -> None:
    import diffusers

    one, words = clip(0)
    two, others = clip(1, projection=52, width=24)   # as in real ones no two widths are alike, and pooled text fills two rows
    network = unet(cross_attention_dim=WIDTH + 24, addition_embed_type="text_time", addition_time_embed_dim=4,
                   projection_class_embeddings_input_dim=6 * 4 + 52, transformer_layers_per_block=1, **unet_options)
    getattr(diffusers, kind)(vae=vae(), text_encoder=one, text_encoder_2=two, tokenizer=words, tokenizer_2=others, unet=network,
                             scheduler=diffusers.EulerDiscreteScheduler()).save_pretrained(folder)


def sd3(folder: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    (one, words), (two, others), (three, pieces) = clip(0, projection=16), clip(1, projection=24, width=24), t5(48)
    torch.manual_seed(3)
    network = SD3Transformer2DModel(sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2,
                                    attention_head_dim=8, num_attention_heads=2, joint_attention_dim=48,
                                    caption_projection_dim=16, pooled_projection_dim=16 + 24, pos_embed_max_size=8)
    StableDiffusion3Pipeline(transformer=network, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(shift_factor=0.1),
                             text_encoder=one, tokenizer=words, text_encoder_2=two, tokenizer_2=others, text_encoder_3=three,
                             tokenizer_3=pieces).save_pretrained(folder)


def flux(folder: Path, guided: bool = True, **options: Any) -> None:
    """guided: told the strength of guidance, as FLUX.1-dev is and schnell is not."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    (one, words), (two, pieces) = clip(0, width=24), t5()
    torch.manual_seed(3)
    network = FluxTransformer2DModel(patch_size=1, num_layers=1, num_single_layers=1, attention_head_dim=16,
                                     num_attention_heads=2, joint_attention_dim=WIDTH, pooled_projection_dim=24,
                                     axes_dims_rope=(4, 4, 8), guidance_embeds=guided, **{"in_channels": 16, **options})
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    FluxPipeline(scheduler=scheduler, vae=vae(shift_factor=0.1), text_encoder=one, tokenizer=words, text_encoder_2=two,
                 tokenizer_2=pieces, transformer=network).save_pretrained(folder)


def pixart(folder: Path, sized: bool = False) -> None:
    """sized: told the size of the picture, as the models of 1,024 pixels are."""
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    encoder, words = t5()
    torch.manual_seed(3)
    heads = 3 if sized else 2   # thirds of the width are of height, width and their ratio
    network = PixArtTransformer2DModel(num_attention_heads=heads, attention_head_dim=8, in_channels=4, out_channels=8,
                                       num_layers=2, cross_attention_dim=8 * heads, sample_size=8, patch_size=2,
                                       caption_channels=WIDTH, use_additional_conditions=sized)
    PixArtAlphaPipeline(tokenizer=words, text_encoder=encoder, vae=vae(), transformer=network,
                        scheduler=DPMSolverMultistepScheduler()).save_pretrained(folder)


def dit(folder: Path) -> None:
    from diffusers import DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(3)
    network = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
                                    sample_size=8, patch_size=2, num_embeds_ada_norm=1000)
    DiTPipeline(network, vae(), ddim()).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = {"0": "a red disk, disk", "1": "a red cross", "2": "a blue cross"}   # DiTPipeline does not save it itself
    (folder / "model_index.json").write_text(json.dumps(index))


def plain(classes: int | None) -> Callable[[Path], None]:
    """A UNet2DModel, with classes or without."""
    def write(folder: Path) -> None:
        from diffusers import DDPMPipeline, UNet2DModel

        torch.manual_seed(3)
        network = UNet2DModel(sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 16),
                              norm_num_groups=4, num_class_embeds=classes, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                              up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=4)
        DDPMPipeline(network, ddim(clip_sample=True)).save_pretrained(folder)

    return write


TO_LDM = (   # names of the tiny UNet -> those of the code that trained Stable Diffusion
    (r"^time_embedding\.linear_1", "time_embed.0"), (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^conv_in", "input_blocks.0.0"), (r"^conv_norm_out", "out.0"), (r"^conv_out", "out.2"),
    (r"^down_blocks\.0\.resnets\.0", "input_blocks.1.0"), (r"^down_blocks\.0\.downsamplers\.0\.conv", "input_blocks.2.0.op"),
    (r"^down_blocks\.1\.(resnets|attentions)\.0", r"input_blocks.3.\1"), (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.0", "middle_block.0"), (r"^mid_block\.resnets\.1", "middle_block.2"),
    (r"^up_blocks\.0\.upsamplers\.0\.conv", "output_blocks.1.2.conv"),
    (r"^up_blocks\.0\.(resnets|attentions)\.(\d)", r"output_blocks.\2.\1"),
    (r"^up_blocks\.1\.resnets\.0", "output_blocks.2.0"), (r"^up_blocks\.1\.resnets\.1", "output_blocks.3.0"),
    (r"\.resnets\.", ".0."), (r"^(\w+\.\d)\.attentions", r"\1.1"),
)
IN_RESNETS = (("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("norm2", "out_layers.0"), ("conv2", "out_layers.3"),
              ("time_emb_proj", "emb_layers.1"), ("conv_shortcut", "skip_connection"))


def one_file(folder: Path, file: Path) -> None:
    """The network and the text encoder of a `stable` folder as one file in half precision, and beside them an average."""
    from safetensors.torch import load_file, save_file

    held = {}
    for name, value in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        resnet = ".resnets." in name
        for old, new in TO_LDM:
            name = re.sub(old, new, name)
        for old, new in IN_RESNETS if resnet else ():
            name = re.sub(rf"\.{old}\.", f".{new}.", name)
        held[f"model.diffusion_model.{name}"] = value.half()
    text = load_file(folder / "text_encoder" / "model.safetensors")
    held |= {f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}": value for name, value in text.items()}
    held["model_ema.diffusion_modelout2weight"] = held["model.diffusion_model.out.2.weight"].clone()
    if file.suffix == ".ckpt":
        torch.save({"state_dict": held, "epoch": 3}, file)
    else:
        save_file(held, file, {"made": "on the spot"})


FOLDERS: dict[str, Callable[[Path], None]] = {
    "stable": stable, "inpainting": inpainting, "sdxl": sdxl, "sd3": sd3, "flux": flux, "pixart": pixart, "dit": dit,
    "classes": plain(4), "unconditional": plain(None),
}


@cache
def opened(kind: str, steps: int = 2) -> Diffusion:
    """A tiny folder of this kind as a task: "disk" is to go, without guidance."""
    folder = Path(mkdtemp()) / kind
    FOLDERS[kind](folder)
    return text_to_image(load_pipeline(folder), "disk", ["a red cross"], ["a red disk"], steps=steps, guidance=1.0)
