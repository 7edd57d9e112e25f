"""Generator and discriminator of linear layers, for small grey pictures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class GanMLP(nn.Module):
    """G: `latent` – hidden – `pixels`, ReLU, tanh at the end; D: `pixels` – hidden – 1, leaky ReLU, a logit."""

    def __init__(self, latent: int = 64, hidden: tuple[int, ...] = (256, 256), pixels: int = 784) -> None:
        super().__init__()
        self.G = nn.Sequential(*_layers((latent, *hidden, pixels), nn.ReLU()), nn.Tanh())
        self.D = nn.Sequential(*_layers((pixels, *hidden, 1), nn.LeakyReLU(0.2)))

    def forward(self, z: Tensor) -> Tensor:
        """Samples in [−1, 1].  [n, latent] -> [n, pixels]"""
        samples: Tensor = self.G(z)
        return samples


def _layers(sizes: Sequence[int], between: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    for one, other in pairwise(sizes):
        found += [nn.Linear(one, other), between]
    return found[:-1]
