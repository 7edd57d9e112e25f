"""The interface of multi-label classification: a model from inputs to the logits of L yes-or-no labels."""

from __future__ import annotations

from typing import ClassVar

from lethe.core.families.headed import HeadedTask


class MultilabelTask(HeadedTask):
    """Columns: `x` [n, …] inputs and `y` [n, L] of 0 and 1 (bytes).

    nll         binary cross-entropy, mean over labels  -> [n]      outputs   logits  -> [n, L]
    divergence  KL of the L Bernoulli distributions, mean  -> [n]   features  the head's input  -> [n, d]
    relabel     each label drawn by its frequency                   observe   also features
    """

    family = "multilabel"
    score_name = "accuracy"
    provides: ClassVar[frozenset[str]] = frozenset({
        "nll", "batch_loss", "outputs", "divergence", "features", "relabel", "observe", "build", "vmap", "weights",
        "width", "forward", "inputs",
    })
