"""The interface of regression and forecasting: a model from inputs to h real numbers."""

from __future__ import annotations

from typing import ClassVar

from lethe.core.families.headed import HeadedTask


class RegressionTask(HeadedTask):
    """Columns: `x` [n, …] inputs and `y` [n] or [n, h] real targets.

    nll         the training loss, mean over horizons  -> [n]   outputs   predictions  -> [n, h]
    divergence  squared distance of predictions  -> [n]         features  the head's input  -> [n, d]
    relabel     other plausible targets                         observe   also prediction and y [n, h]
    """

    family = "regression"
    score_name = "closeness"
    provides: ClassVar[frozenset[str]] = frozenset({
        "nll", "batch_loss", "outputs", "divergence", "features", "relabel", "observe", "build", "vmap", "weights",
        "head", "width", "forward", "inputs", "targets",
    })
