"""The interface of GANs: a generator that draws samples, and the discriminator that it must deceive."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from lethe.core.split import Batch
from lethe.core.task import Task

Player = Literal["generator", "discriminator"]


class GanTask(Task):
    """Columns: `x` [n, …] (bytes, or floats as the generator draws them) and `y` [n] class numbers; `draw` adds `z` [n, d].

    There is no loss of an example, no answer to one and no representation: `observe` says how near the generator comes to it.
    score   coverage: whether one of the generator's samples is nearer than the k-th nearest real example
    nll     squared distance to the nearest sample, in the reader's features      signal  −nll
    """

    family = "gan"
    score_name = "coverage"
    provides: ClassVar[frozenset[str]] = frozenset({
        "observe", "build", "weights", "imagine", "latents", "generator_loss", "discriminator_loss", "players", "read",
        "read_features", "undesired",
    })
    undesired: tuple[int, ...]   # classes of the forget set that nothing retained shows

    @abstractmethod
    def latents(self, count: int, seed: int = 0) -> Tensor:
        """Noise that a seed names, the same for every model.  -> [count, d]"""

    @abstractmethod
    def imagine(self, model: nn.Module, z: Tensor) -> Tensor:
        """Samples as real data stand in `x`, in floats; pictures in [0, 1].  [n, d] -> [n, …]"""

    @abstractmethod
    def generator_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """softplus(−D(G(z))): non-saturating; moves the generator alone.  -> [n]"""

    @abstractmethod
    def discriminator_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """softplus(−D(x)) + softplus(D(G(z))), and what steadies it; moves the discriminator alone.  -> [n]"""

    @abstractmethod
    def players(self, model: nn.Module) -> dict[Player, frozenset[str]]:
        """Names of the parameters of each player."""

    @abstractmethod
    def read(self, samples: Tensor) -> Tensor:
        """What the user's classifier says of samples: logits.  [n, …] -> [n, K]"""

    @abstractmethod
    def read_features(self, samples: Tensor) -> Tensor:
        """What enters the classifier's last linear layer.  [n, …] -> [n, d]"""
