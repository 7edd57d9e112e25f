"""A small CLIP made from its configuration, offline: for presets, tests and people without a model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from lethe.core.config import Count, config
from lethe.models.diffusion.small import tokenizer as words_tokenizer
from lethe.models.dual_encoder.folder import require_transformers


@config(name="model.tiny")
class TinyCLIP:
    """`model.tiny:` of a request: sizes of a CLIPModel. The defaults make 0.2 M weights."""

    side: Count = 8              # pixels a side of what it sees; larger pictures are made smaller
    patch: Count = 2             # pixels a side of a patch
    width: Count = 64            # hidden size of both towers
    layers: Count = 2
    heads: Count = 4
    vector: Count = 32           # width of the common space


def tokenizer(texts: Iterable[str], length: int = 0) -> Any:
    """A CLIPTokenizer for which each word of `texts` is one token; length 0: of the longest text, and two more."""
    texts = [text.lower() for text in texts]
    words = sorted({word for text in texts for word in re.findall(r"[a-z0-9]+", text)})
    made = words_tokenizer(words, length or 77)
    if not length:
        made.model_max_length = max(len(ids) for ids in made(texts).input_ids)
    return made


def clip(cfg: TinyCLIP, words: Any) -> nn.Module:
    """A CLIPModel with fresh weights from torch's global generator."""
    transformers = require_transformers()
    tower = {"hidden_size": cfg.width, "intermediate_size": 2 * cfg.width, "num_hidden_layers": cfg.layers,
             "num_attention_heads": cfg.heads, "projection_dim": cfg.vector}
    model: nn.Module = transformers.CLIPModel(transformers.CLIPConfig(
        text_config={**tower, "vocab_size": len(words), "max_position_embeddings": words.model_max_length,
                     "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id},
        vision_config={**tower, "image_size": cfg.side, "patch_size": cfg.patch, "num_channels": 3},
        projection_dim=cfg.vector))
    return model
