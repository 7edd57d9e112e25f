"""Vectors in the place of token embeddings: in front of a prompt, or at some of its tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.modules import device_of, hooked


def prefixed(tokens: Tensor, prefix: Tensor, end: int) -> Tensor:
    """Token ids with `prefix` after the start token, cut to the old length; a row that lost its end token ends with it.

    [start, 7, end, end] with (4, 5): [start, 4, 5, end].  [n, L], [k] -> [n, L]
    """
    rows = torch.cat([tokens[:, :1], prefix.to(tokens).expand(len(tokens), -1), tokens[:, 1:]], 1)[:, : tokens.shape[1]]
    cut = (rows[:, 1 + len(prefix) :] != end).all(1)
    rows[cut, -1] = end
    return rows


def with_vectors(encoder: Any, tokens: Tensor, vectors: Tensor) -> Tensor:
    """A text encoder's states of token ids, with these vectors in the place of the embeddings behind the start token, of all rows
    alike.  [n, L], [k, d] -> [n, L, d]"""
    unique, place = tokens.unique(dim=0, return_inverse=True)
    mask = torch.zeros_like(unique, dtype=torch.bool)
    mask[:, 1 : 1 + len(vectors)] = True
    return written(encoder, unique, mask, vectors.repeat(len(unique), 1))[place]


def written(encoder: Any, tokens: Tensor, mask: Tensor, values: Tensor) -> Tensor:
    """A text encoder's states of token ids, with these values, row after row, where the mask says so in the place of embeddings.

    Gradients reach the values. A forward hook on the embedding layer, because CLIPTextModel takes no embeddings; the encoder
    stays where it is.  [n, L], [n, L] bool with m places, [m, d] -> [n, L, d]
    """
    def replace(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return out.index_put(mask.to(out.device).nonzero(as_tuple=True), values.to(out))

    with hooked(encoder.get_input_embeddings().register_forward_hook(replace)):
        states: Tensor = encoder(tokens.to(device_of(encoder)))[0]
        return states.to(tokens.device)
