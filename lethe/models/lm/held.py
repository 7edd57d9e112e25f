"""Keys and values of texts that a model goes on with, without what does not count.

    read      texts of about one length in one pass, whatever lengths there are: few pads are read
    held      all of them in one table, on the left what does not count: pads, and tokens that were proposed in vain

A token that comes next is written where there is room, so that no token makes all others be copied; where texts leave, what
does not count for those that stay leaves as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.guard import bare
from lethe.core.modules import device_of
from lethe.core.sequences import left_padded
from lethe.models.lm import decoder

ALIKE = 1.5   # by how much the longest of the texts that are first read together exceeds the shortest                   [ours]
ROOM = 32     # tokens for which there is room behind the last                                                           [ours]


class Going:
    """Texts, which of their keys and values count, and what comes next."""

    def __init__(self, model: nn.Module, texts: Sequence[list[int]], pad: int) -> None:
        self.model, self.device, self.width = model, device_of(model), 0
        self.count = torch.tensor([len(text) for text in texts], device=self.device)
        self.mask = torch.arange(int(self.count.max()), 0, -1, device=self.device) <= self.count.unsqueeze(1)
        parts, order = [], []
        for some in _alike(texts):
            parts.append(self._begun([texts[k] for k in some], pad))
            order += some
        where = torch.tensor(order, device=self.device).argsort()
        self.first = torch.cat([said for said, _ in parts])[where]   # the token behind each text  [n]
        self.cache: Any = parts[0][1]
        for layer, *others in zip(*(cache.layers for _, cache in parts), strict=True):
            for name in ("keys", "values"):
                own = [getattr(one, name) for one in (layer, *others)]
                whole = torch.cat([F.pad(x, (0, 0, self.mask.shape[1] - x.shape[2], 0)) for x in own])[where]
                _hold(layer, name, whole, whole.shape[2])
            layer.update = partial(_written, layer)

    def _begun(self, texts: Sequence[list[int]], pad: int) -> tuple[Tensor, Any]:
        """The token behind each text, and their keys and values alone."""
        ids, mask = (x.to(self.device) for x in left_padded(texts, pad))
        last, cache = torch.zeros_like(ids, dtype=torch.bool), fresh(self.model)
        last[:, -1] = True
        places = (mask.cumsum(1) - 1).clamp(min=0)
        logits = decoder.logits_at(self.model, ids, last, attention_mask=mask, position_ids=places,
                                   **{decoder.cache_name(): cache})
        return decoder.likeliest(logits), cache

    def read(self, block: Tensor) -> Tensor:
        """Logits behind each token of a block that comes next.  [n, b] -> [n, b, V]"""
        self.width, every = block.shape[1], torch.ones_like(block, dtype=torch.bool)
        self.mask = torch.cat([self.mask, every], 1)
        places = self.count.unsqueeze(1) + torch.arange(self.width, device=self.device)
        logits = decoder.logits_at(self.model, block, every, attention_mask=self.mask.long(), position_ids=places,
                                   **{decoder.cache_name(): self.cache})
        return logits.view(*block.shape, -1)

    def keep(self, accepted: Tensor) -> None:
        """So many tokens of the last block count.  [n]"""
        self.mask[:, -self.width :] = torch.arange(self.width, device=self.device) < accepted.unsqueeze(1)
        self.count = self.count + accepted

    def leave(self, still: Sequence[int]) -> None:
        """Only these rows go on, without the columns in which nothing of theirs counts, or so many of each row."""
        rows = torch.tensor(still, device=self.device)
        mask, self.count = self.mask[rows], self.count[rows]
        wide = int(self.count.max())
        places = mask.long().argsort(dim=1, stable=True)[:, -wide:]   # what counts comes last, in its order
        self.mask = mask.gather(1, places)
        places = F.pad(places, (0, ROOM))
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                _hold(layer, name, _picked(getattr(layer, f"{name}_room"), rows, places), wide)


def fresh(model: nn.Module) -> Any:
    """No keys and values yet."""
    from transformers import DynamicCache

    return DynamicCache(config=cast(Any, bare(model)).config)


def plain(model: nn.Module, text: list[int]) -> bool:
    """Whether a model holds keys and values by position, and nothing else."""
    from transformers.cache_utils import DynamicLayer

    cache, ids = fresh(model), torch.tensor([text], device=device_of(model))
    model(input_ids=ids, use_cache=True, **{decoder.cache_name(): cache})
    return all(type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers)


def _alike(texts: Sequence[list[int]]) -> Iterator[list[int]]:
    """Places of texts of about one length."""
    some: list[int] = []
    for k in sorted(range(len(texts)), key=lambda k: len(texts[k])):
        if some and len(texts[k]) > ALIKE * len(texts[some[0]]):
            yield some
            some = []
        some.append(k)
    yield some


def _hold(layer: Any, name: str, room: Tensor, width: int) -> None:
    """So much of a room [n, heads, T, d] is what the layer holds."""
    setattr(layer, f"{name}_room", room)
    setattr(layer, name, room[:, :, :width])


def _picked(room: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """Of some rows of a room [n, heads, T, d] some places [m, t] each, copied as whole vectors.  -> [m, heads, t, d]"""
    _, heads, width, size = room.shape
    starts = (rows.unsqueeze(1) * heads + torch.arange(heads, device=room.device)) * width   # [m, heads]
    at = starts.unsqueeze(2) + places.unsqueeze(1)
    return room.view(-1, size).index_select(0, at.flatten()).view(*at.shape, size)


def _written(layer: Any, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """What a layer does with what comes next: it stands behind what is held, in the room there, or in a larger one."""
    for name, new in (("keys", keys), ("values", values)):
        held, room = getattr(layer, name), getattr(layer, f"{name}_room")
        start, stop = held.shape[2], held.shape[2] + new.shape[2]
        if room.shape[2] < stop:
            room = F.pad(held, (0, 0, 0, new.shape[2] + ROOM))
        room[:, :, start:stop] = new
        _hold(layer, name, room, stop)
    return layer.keys, layer.values
