"""Maps of cross-attention as numbers: how much a picture looks at some tokens, and where."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F


def shown_at(maps: Mapping[str, Tensor], named: Tensor, side: float, threshold: float) -> Tensor:
    """Where a network looks at the named tokens: the mean of the maps whose height is nearest to `side`, over layers, heads and
    these tokens, from 0 to 1 between its least and its largest place, at the threshold or above.

    [n, heads, h, w, L] each, [n, L] bool -> [n, h, w] bool. One map, one head, two places and two tokens of which the second is
    named, A = ((0.8, 0.2), (0.6, 0.4)): 0 and 1.
    """
    height = min((some.shape[2] for some in maps.values()), key=lambda h: abs(h - side))
    share = named.float() / named.float().sum(1, keepdim=True).clamp(min=1)
    looks = torch.stack([(some.mean(1) * share.view(len(share), 1, 1, -1)).sum(-1) for some in maps.values()
                         if some.shape[2] == height]).mean(0)
    low, high = looks.amin((1, 2), keepdim=True), looks.amax((1, 2), keepdim=True)
    return (looks - low) / (high - low).clamp(min=1e-12) >= threshold


def resized(mask: Tensor, sides: tuple[int, int]) -> Tensor:
    """A mask by its nearest entries.  [n, h, w] bool -> [n, h', w'] bool"""
    return F.interpolate(mask.float().unsqueeze(1), sides).squeeze(1) > 0.5
