"""A small convolutional classifier of images."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Two convolutions and two linear layers for images [n, C, 8, 8] or [n, C, 28, 28]: about 35 k weights on digits.

    norm  batch: normalised over the batch after both convolutions
    """

    def __init__(self, channels: int = 1, side: int = 8, classes: int = 10, width: int = 16,
                 norm: Literal["none", "batch"] = "none") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.bn1, self.bn2 = (nn.BatchNorm2d(k) if norm == "batch" else nn.Identity() for k in (width, 2 * width))
        self.fc1 = nn.Linear(2 * width * (side // 4) ** 2, 128) if side > 8 else nn.Linear(2 * width * (side // 2) ** 2, 64)
        self.fc2 = nn.Linear(self.fc1.out_features, classes)
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        if self.side > 8:
            x = F.max_pool2d(x, 2)
        logits: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return logits
