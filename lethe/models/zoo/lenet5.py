"""LeNet-5, the first convolutional network of its kind."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class LeNet5(nn.Module):
    """LeNet-5 on images [n, 1, 28, 28] or [n, 1, 32, 32] (28 is padded). LeCun et al. 1998."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.f1, self.f2, self.f3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] == 28:
            x = F.pad(x, (2, 2, 2, 2))
        x = F.max_pool2d(F.relu(self.c1(x)), 2)
        x = F.max_pool2d(F.relu(self.c2(x)), 2)
        logits: Tensor = self.f3(F.relu(self.f2(F.relu(self.f1(x.flatten(1))))))
        return logits
