"""A classifier or regressor of vectors."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU for vectors [n, d] (images are flattened)."""

    def __init__(self, inputs: int = 64, hidden: tuple[int, ...] = (128, 128), classes: int = 10) -> None:
        super().__init__()
        sizes = (inputs, *hidden)
        self.body = nn.Sequential(*[m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())])
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x.flatten(1)))
        return logits
