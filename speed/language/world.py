"""Llamas of several sizes with random weights, and made-up questions and answers as long as TOFU's.

Speed and memory do not depend on what the weights say, so nothing is trained, and no data are needed.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lethe.core.modules import given
from lethe.core.sequences import Format
from lethe.data.text import tokenised
from lethe.models.lm.open import Language, language_model
from lethe.models.lm.small import train_tokenizer

TEMPLATE = "Question: {prompt}\nAnswer: {answer}"
SYLLABLES = ("ba", "ko", "mi", "ru", "sel", "tan", "vo", "dri")
WORDS = 2000      # of the made-up language
SPOKEN = 1500     # tokens that the tokenizer learns; the rows of a larger vocabulary stay unused, and cost what they cost


@dataclass(frozen=True)
class Size:
    """Of a Llama with tied embeddings. kv: heads of keys and values."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv: int


SIZES = {
    "tiny": Size(2048, 64, 172, 4, 4, 4),
    "small": Size(4096, 256, 704, 4, 4, 4),             # 4.3 M weights
    "1.2b": Size(128256, 2048, 8192, 16, 32, 8),        # 1.24 B, the shape of Llama 3.2 1B
}


def records(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Questions of about 20 tokens and answers of about 45, at most 150: the spread of TOFU's."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, k=rng.choice((1, 2, 2, 3)))) for _ in range(WORDS)]

    def said(mean: float, least: int, most: int) -> str:
        return " ".join(rng.choices(words, k=min(most, max(least, round(rng.lognormvariate(0, 0.45) * mean)))))

    return [{"id": str(i), "prompt": f"{said(10, 4, 30)}?", "answer": f"{said(28, 4, 100)}."} for i in range(count)]


class World:
    """One Llama on the CPU, its tokenizer, and the records to forget and to keep."""

    def __init__(self, size: str, forget: int, retain: int, device: str) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        rows = records(forget + retain)
        self.size = size
        self.tokenizer: Any = train_tokenizer([f"{row['prompt']} {row['answer']}" for row in rows], SPOKEN)
        shape, words = SIZES[size], self.tokenizer
        torch.manual_seed(0)
        with torch.device(device):   # drawn where that is fast
            made = LlamaForCausalLM(LlamaConfig(
                vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.inner,
                num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv,
                max_position_embeddings=512, tie_word_embeddings=True, pad_token_id=words.pad_token_id,
                bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
            ))
        self._model: nn.Module = made.cpu()
        form = Format(template=TEMPLATE)
        self.forget = tokenised(rows[:forget], self.tokenizer, form, "forget")
        self.retain = tokenised(rows[forget:], self.tokenizer, form, "retain")
        self.weights = sum(p.numel() for p in made.parameters())

    def model(self) -> nn.Module:
        """The original, a copy of its own."""
        return copy.deepcopy(self._model)

    def task(self, packing: bool = False) -> Language:
        """The original with its data, as a user opens it."""
        return language_model(given(self.model()), self.tokenizer, self.forget, self.retain, template=TEMPLATE, packing=packing)
