"""Maps of cross-attention: how much every place of a picture looks at every token of its prompt, as a network works it out.

A map is computed beside the layer, from what the layer reads and by its own projections, so that the network stays as it is:
whichever way the layer itself computes attention, adapters in its projections count, and the map has a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import Tensor, nn

from lethe.core.modules import hooked


@contextmanager
def recorded(layers: Mapping[str, nn.Module], side: tuple[int, int]) -> Iterator[dict[str, Tensor]]:
    """Inside, every layer that is asked leaves its map under its name.  -> {name: [n, heads, h, w, L]}

    side  height and width of what the network sees; the layers see the same picture, smaller
    """
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def note(layer: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
            x = args[0] if args else given["hidden_states"]
            weights = probabilities(layer, x, given["encoder_hidden_states"], given.get("attention_mask"))
            found[name] = weights.unflatten(2, sides(weights.shape[2], *side))
        return note

    handles = [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers.items()]
    with hooked(*handles):
        yield found


def probabilities(layer: Any, x: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q kᵀ/√d) of an attention layer of diffusers.  [n, S, d], [n, L, d'] -> [n, heads, S, L]"""
    if layer.norm_cross:
        text = layer.norm_encoder_hidden_states(text)
    mask = layer.prepare_attention_mask(mask, text.shape[1], len(x))
    q, k = (layer.head_to_batch_dim(some) for some in (layer.to_q(x), layer.to_k(text)))
    if getattr(layer, "norm_q", None) is not None:
        q, k = layer.norm_q(q), layer.norm_k(k)
    found: Tensor = layer.get_attention_scores(q, k, mask).unflatten(0, (len(x), -1))
    return found


@cache
def sides(places: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a picture of so many places, shaped most like height × width: 32 of 16 × 8 are 8 × 4."""
    divisors = [a for a in range(1, places + 1) if places % a == 0]
    high = min(divisors, key=lambda a: abs(math.log(a * a * width / (places * height))))
    return high, places // high
