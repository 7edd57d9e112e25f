"""Classification: any `nn.Module` that maps a batch of inputs [n, …] to logits [n, K]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.families.classification import ClassificationTask
from lethe.core.split import Batch, Split
from lethe.core.task import Recipe
from lethe.errors import DataError, LabelOutOfRange, OutputShape
from lethe.maths import losses
from lethe.models.heads import HeadTask


class Classification(HeadTask, ClassificationTask):
    """Columns: `x` [n, …] (float, or uint8 images that are scaled to [0, 1]) and `y` [n] class numbers.

    head  name of the module whose input is the features; default: the last linear layer that ends in K outputs
    """

    def __init__(
        self,
        original: nn.Module,
        splits: Mapping[str, Split],
        recipe: Recipe | None = None,
        build: Callable[[int], nn.Module] | None = None,
        name: str = "classification",
        facts: dict[str, Any] | None = None,
        classes: list[str] | None = None,
        head: str | None = None,
    ) -> None:
        self.classes = classes
        super().__init__(original, splits, recipe, build, name, facts, head)

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy.  -> [n]"""
        return losses.cross_entropy(self.outputs(model, batch), batch.y)

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """T²·KL(p ‖ q) of the softmax distributions.  -> [n]"""
        return losses.kl(p, q, temperature)

    def relabel(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Labels uniform over the other K − 1 classes."""
        shift = torch.randint(1, self.class_count, (len(batch),), generator=rng).to(batch.y.device)
        return batch.replace(y=(batch.y + shift) % self.class_count)

    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """nll, score (correct), signal and margin (logit-scaled confidence), logits [n, K], features [n, d]."""
        logits, features = self.forward(model, batch)
        margin = losses.margin(logits, batch.y)
        return {
            "nll": losses.cross_entropy(logits, batch.y),
            "score": (logits.argmax(-1) == batch.y).float(),
            "signal": margin.float(),
            "margin": margin,
            "logits": logits.float(),
            "features": features.float(),
            "y": batch.y,
        }

    @property
    def class_count(self) -> int:
        """K."""
        return self.width

    def about(self) -> dict[str, Any]:
        return {"classes": self.class_count, "names": self.classes, **self.prepared}

    def check_family(self, original: nn.Module, splits: Mapping[str, Split]) -> None:
        """Labels and output shape, before any work starts."""
        some, logits = self.tried(original, splits)
        for name, split in splits.items():
            y = split.columns["y"]
            if y.dtype != torch.int64 or y.dim() != 1:
                raise DataError(f"y of {name!r} is {str(y.dtype).removeprefix('torch.')} {list(y.shape)}, but class "
                                "numbers are int64 [n], so no loss can be computed. Pass y.long(), or y.argmax(1) for "
                                "one-hot labels; for real numbers lethe.regression(…).")
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(some):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise OutputShape(f"the model returns {shape} for {len(some)} examples, but a classifier must return "
                              f"logits [{len(some)}, K], so no loss can be computed. Wrap it so that forward(x) "
                              "returns "
                              "logits.")
        self._width = logits.shape[1]
        for name, split in splits.items():
            y = split.columns["y"]
            wrong = (y < 0) | (y >= self._width)
            if wrong.any():
                place = int(wrong.nonzero()[0])
                raise LabelOutOfRange(f"label {int(y[place])} of example {split.ids[place]} in {name!r} has no output: "
                                      f"the model has {self._width} classes (0…{self._width - 1}). Correct the "
                                      "labels or the "
                                      "model.")
        self.check_head(original, some)




