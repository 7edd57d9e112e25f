"""Text classifiers: a transformers encoder under a linear head, as a plain module from token numbers to logits.

    ids [n, T] (0 is padding)  ->  mean of the last hidden states over the tokens  ->  logits [n, K]

So text runs through `Classification` like any other input. `data: {kind: labelled_text}` makes the ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.extras import needs_extra


class TextClassifier(nn.Module):
    """Logits of a text from any encoder that returns `last_hidden_state`.

    encoder  a transformers model called as encoder(input_ids, attention_mask)
    padding  the id that stands for no token
    """

    def __init__(self, encoder: nn.Module, classes: int, width: int, padding: int = 0) -> None:
        super().__init__()
        self.encoder, self.padding = encoder, padding
        self.head = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """[n, T] -> [n, K]; a text without tokens is the mean of nothing: zeros enter the head."""
        used = ids != self.padding
        longest = max(int(used.any(0).nonzero().max()) + 1 if used.any() else 1, 1)   # columns of padding alone cost time
        ids, used = ids[:, :longest], used[:, :longest]
        seen = used | (torch.arange(longest, device=ids.device) == 0)   # attention needs one token to look at
        states = self.encoder(input_ids=ids, attention_mask=seen.long()).last_hidden_state
        logits: Tensor = self.head((states * used.unsqueeze(-1)).sum(1) / used.sum(1, keepdim=True).clamp(min=1))
        return logits


def text_encoder(vocabulary: int = 4000, classes: int = 2, width: int = 64, layers: int = 2, heads: int = 2,
                 positions: int = 64, dropout: float = 0.1, folder: str = "") -> TextClassifier:
    """A small BERT with fresh weights or, with `folder`, a pre-trained encoder of transformers under a fresh head.

    Eager attention: second derivatives do not work through the fused one on CPUs.
    """
    try:
        from transformers import AutoConfig, AutoModel, BertConfig, BertModel
    except ImportError:
        raise needs_extra("lm", "a text classifier", "transformers", "it was not made") from None
    if folder:
        known: Any = AutoConfig.from_pretrained(Path(folder))
        encoder: Any = AutoModel.from_pretrained(Path(folder), attn_implementation="eager")
        return TextClassifier(encoder, classes, known.hidden_size, known.pad_token_id or 0)
    shape = BertConfig(vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                       intermediate_size=2 * width, max_position_embeddings=positions, hidden_dropout_prob=dropout,
                       attention_probs_dropout_prob=dropout, pad_token_id=0)
    made: Any = BertModel   # its constructor is untyped
    return TextClassifier(made._from_config(shape, add_pooling_layer=False, attn_implementation="eager"), classes, width)
