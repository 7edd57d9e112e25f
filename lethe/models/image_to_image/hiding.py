"""What is hidden of a picture before a model completes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["patches", "centre", "border"]


@dataclass(frozen=True)
class Hide:
    """What a model was trained to complete.

    kind   patches drawn anew for each picture; the centre; or all around it
    share  of the picture that is hidden      patch  side of a patch in pixels
    """

    kind: Kind = "patches"
    share: float = 0.5
    patch: int = 2


def hidden(hide: Hide, n: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """Which pixels of n pictures are hidden.  -> [n, 1, height, width] bool

    Of patches exactly the rounded share, at least one and never all; 8 × 8 in patches of 2 with a share of ½: 8 of 16.
    """
    if hide.kind == "patches":
        down, across = -(-height // hide.patch), -(-width // hide.patch)
        count = min(max(1, round(hide.share * down * across)), max(1, down * across - 1))
        order = torch.rand(n, down * across, generator=rng).argsort(1)
        chosen = torch.zeros(n, down * across, dtype=torch.bool).scatter_(1, order[:, :count], True)
        whole = chosen.view(n, 1, down, across).repeat_interleave(hide.patch, 2).repeat_interleave(hide.patch, 3)
        return whole[:, :, :height, :width].contiguous()
    inner = hide.share if hide.kind == "centre" else 1 - hide.share
    tall, wide = (min(max(1, round(side * inner**0.5)), side - 1) for side in (height, width))
    mask = torch.zeros(n, 1, height, width, dtype=torch.bool)
    top, left = (height - tall) // 2, (width - wide) // 2
    mask[:, :, top : top + tall, left : left + wide] = True
    return mask if hide.kind == "centre" else ~mask
