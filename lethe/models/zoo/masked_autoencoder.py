"""A small convolutional autoencoder that completes pictures of which a part is hidden."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class MaskedAutoencoder(nn.Module):
    """`encoder`: convolutions that halve the side `depth` times, then a linear layer to the code; `decoder`: the way back.

    It is given the picture with what is hidden set to 0, and the mask as one more channel; about 60 k weights by default.
    """

    def __init__(self, channels: int = 1, side: int = 8, width: int = 16, depth: int = 2, code: int = 64) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(depth + 1)]
        last = (widths[-1], side // 2**depth, side // 2**depth)
        size = last[0] * last[1] * last[2]
        down: list[nn.Module] = [nn.Conv2d(channels + 1, width, 3, padding=1), nn.ReLU()]
        up: list[Any] = [nn.Linear(code, size), nn.ReLU(), nn.Unflatten(1, last)]
        for k in range(depth):
            down += [nn.Conv2d(widths[k], widths[k + 1], 4, 2, 1), nn.ReLU()]
            up += [nn.ConvTranspose2d(widths[depth - k], widths[depth - k - 1], 4, 2, 1), nn.ReLU()]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(size, code))
        self.decoder = nn.Sequential(*up, nn.Conv2d(width, channels, 3, padding=1), nn.Sigmoid())

    def forward(self, given: Tensor) -> Tensor:
        """[n, channels + 1, side, side] -> [n, channels, side, side] in [0, 1]"""
        drawn: Tensor = self.decoder(self.encoder(given))
        return drawn
