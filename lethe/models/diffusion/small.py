"""A small text-to-image model of coloured shapes, made in memory from the real diffusers and transformers classes.

The text encoder is a CLIPTextModel with random weights, frozen from the start: everything that is learned about shapes
is in the UNet, so that retraining the UNet without a concept is exact retraining. Its token embeddings are drawn ten
times wider than usual: states of different nouns then have cosine 0.5 as in a trained encoder, instead of 0.9.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from lethe.core.modules import seeded
from lethe.core.seeds import derive, generator
from lethe.data.shapes import COLOURS, SHAPES, shapes
from lethe.models.diffusion.judge import Judge
from lethe.models.diffusion.pipeline import Pipeline, require_diffusers
from lethe.models.zoo.small_cnn import SmallCNN

WIDTH = 64           # of the text encoder's hidden states
WORDS = ("a", *COLOURS, *SHAPES)


def tokenizer(words: Sequence[str] = WORDS, length: int = 8) -> Any:
    """A CLIPTokenizer for which each of `words` is one token; other words are spelled. It pads with the end token."""
    from transformers import CLIPTokenizer

    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    letters = [letter + end for letter in string.ascii_lowercase + string.digits + ",." for end in ("", "</w>")]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for parts in pieces.values() for pair in pairwise(parts)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = {word: _joined(parts, best) for word, parts in pieces.items()}
    vocabulary: dict[str, int] = {}
    for token in (*letters, *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"):
        vocabulary.setdefault(token, len(vocabulary))
    return CLIPTokenizer(vocab=vocabulary, merges=merges,  # type: ignore[arg-type]
        model_max_length=length)


def _joined(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def unet(channels: int = 3, side: int = 8, width: int = 32) -> nn.Module:
    """A UNet2DConditionModel with cross-attention at full and at half resolution; 0.8 M weights at width 32."""
    model: nn.Module = require_diffusers().UNet2DConditionModel(
        sample_size=side, in_channels=channels, out_channels=channels, block_out_channels=(width, 2 * width),
        layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=WIDTH, norm_num_groups=8,
        attention_head_dim=2,   # diffusers reads it as the number of heads
    )
    return model


def pipeline(seed: int = 0, latent: bool = False, width: int = 32, length: int = 8, guided: bool = False) -> Pipeline:
    """Untrained parts. With `latent`, a tiny random AutoencoderKL (16×16 pixels to 8×8 latents) makes it a complete
    Stable Diffusion pipeline.

    guided  it is to draw under guidance, which drives what the sampler takes for the picture out of its range: it is not clipped
            on the way then. Of all prompts 98 % are drawn as asked at guidance 3 so, 3 % with clipping (one original)
    """
    diffusers = require_diffusers()
    from transformers import CLIPTextConfig, CLIPTextModel

    words = tokenizer(length=length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "tiny pipeline"))
        config = CLIPTextConfig(
            vocab_size=len(words), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=length, bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
        )
        vae = None
        if latent:
            vae = diffusers.AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=16,
            )
        text: Any = CLIPTextModel(config)
        denoiser = unet(4 if latent else 3, 8, width)
        with torch.no_grad():
            text.get_input_embeddings().weight.mul_(10)
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", clip_sample=not (latent or guided), set_alpha_to_one=False, steps_offset=1,
    )
    return Pipeline(denoiser, text, words, scheduler, vae)


@cache
def judge(seed: int = 0, steps: int = 300, side: int = 8) -> Judge:
    """A small CNN trained on rendered pictures to read colour and shape; its accuracy on other pictures is recorded."""
    attributes = {"colour": COLOURS, "shape": SHAPES}
    train, unseen = (shapes(n, seed, name, side, noise=0.15) for n, name in ((1024, "judge"), (512, "judge-test")))
    wanted = {
        split.name: [torch.tensor([v.index(x) for x in split.meta[a]]) for a, v in attributes.items()]
        for split in (train, unseen)
    }
    model = seeded(lambda _: SmallCNN(3, side, len(COLOURS) + len(SHAPES)), derive(seed, "judge"))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    rng = generator(seed, "judge order")
    for _ in range(steps):
        index = torch.randint(0, len(train), (64,), generator=rng)
        logits = model(train.columns["image"][index]).split([len(v) for v in attributes.values()], 1)
        loss = sum(nn.functional.cross_entropy(part, y[index]) for part, y in zip(logits, wanted["judge"], strict=True))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimiser.step()
    made = Judge(model.eval(), attributes)
    seen = made.read(unseen.columns["image"])
    right = {a: (seen[a] == y).float().mean() for a, y in zip(attributes, wanted["judge-test"], strict=True)}
    made.accuracy = {a: float(share) for a, share in right.items()}
    return made
