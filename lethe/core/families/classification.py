"""The interface of classification: a model from inputs to the logits of K classes."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from lethe.core.families.headed import HeadedTask


class ClassificationTask(HeadedTask):
    """Columns: `x` [n, …] inputs and `y` [n] class numbers (int64).

    nll         cross-entropy  -> [n]                outputs   logits  -> [n, K]
    divergence  KL of softmax distributions  -> [n]  features  the head's input  -> [n, d]
    relabel     other classes                        observe   also logits [n, K], margin [n], y [n]
    """

    family = "classification"
    score_name = "accuracy"
    provides: ClassVar[frozenset[str]] = frozenset({
        "nll", "batch_loss", "outputs", "divergence", "features", "relabel", "observe", "build", "vmap", "weights", "likelihood",
        "head", "width", "forward", "class_count", "inputs", "labels",
    })

    @property
    @abstractmethod
    def class_count(self) -> int:
        """K, the number of classes."""
