"""Models that end in one linear head: what classifiers and regressors share."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from lethe.core.split import Batch
from lethe.core.task import Task


class HeadedTask(Task):
    """A model from inputs `x` [n, …] to outputs [n, K] by a linear layer on features [n, d]."""

    @property
    @abstractmethod
    def head(self) -> str:
        """Name of the module whose input is the features, e.g. "classifier.2"."""

    @property
    @abstractmethod
    def width(self) -> int:
        """K, the number of outputs."""

    @abstractmethod
    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Outputs and the head's input from one forward pass.  -> [n, K], [n, d]"""
