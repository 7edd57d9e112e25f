"""A small tokenizer and a small Llama, trained from scratch offline: for presets, tests and people without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from lethe.core.config import Count, config
from lethe.core.extras import needs_extra

Attention = Literal["auto", "sdpa", "eager"]   # auto: what transformers chooses for the architecture


@config(name="model.tiny")
class TinyLlama:
    """`model.tiny:` of a request: sizes of a Llama with tied embeddings. The defaults make 1.0 M weights."""

    vocabulary: Count = 1500     # byte-level BPE merges learnt from the training texts
    width: Count = 128           # hidden size
    inner: Count = 384           # MLP size
    layers: Count = 4
    heads: Count = 4
    positions: Count = 512       # longest sequence
    attention: Attention = "auto"   # second derivatives on CPU need eager


def train_tokenizer(texts: Sequence[str], vocabulary: int = 1500) -> Any:
    """A byte-level BPE tokenizer with <begin>, <end> and <pad>, learnt from `texts`; equal texts give equal ones."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast
    except ImportError:
        raise needs_extra("lm", "a language model", "transformers", "it was not made") from None
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<pad>", "<begin>", "<end>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<begin>", eos_token="<end>",
                                   clean_up_tokenization_spaces=False)


def llama(cfg: TinyLlama, tokenizer: Any) -> nn.Module:
    """A Llama with fresh weights from torch's global generator."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=cfg.width, intermediate_size=cfg.inner, num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads, num_key_value_heads=cfg.heads, max_position_embeddings=cfg.positions,
        tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    chosen = None if cfg.attention == "auto" else cfg.attention
    model: nn.Module = LlamaForCausalLM._from_config(shape, attn_implementation=chosen)
    return model
