"""The interface of models of any library that are fitted and asked, and never differentiated: trees, boosting, Keras, …"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from lethe.core.task import Task


class FittedTask(Task):
    """Columns: `x` [n, …] inputs and `y`, class numbers [n] or real targets [n] or [n, h].

    What a model answers is known (`observe`, `outputs`, `divergence`: audits ask for it), its inside is not: there are no
    gradients, features or weights for a method to use.
    """

    @abstractmethod
    def joined(self, models: Sequence[nn.Module]) -> nn.Module:
        """One model that answers with the mean of several."""

    @abstractmethod
    def restored(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
        """`model`, now fitted as the one whose tensors these are; PickleRefused where they are a foreign pickle."""


class FittedClassifierTask(FittedTask):
    """Outputs are log-probabilities  -> [n, K]."""

    family = "fitted_classifier"
    score_name = "accuracy"
    provides: ClassVar[frozenset[str]] = frozenset({
        "observe", "outputs", "divergence", "build", "joined", "restored", "inputs", "labels", "likelihood",
    })


class FittedRegressorTask(FittedTask):
    """Outputs are predictions  -> [n, h]."""

    family = "fitted_regressor"
    score_name = "closeness"
    provides: ClassVar[frozenset[str]] = frozenset({
        "observe", "outputs", "divergence", "build", "joined", "restored", "inputs", "targets",
    })
