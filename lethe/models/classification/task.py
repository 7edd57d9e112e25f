"""Classification: any `nn.Module` that maps a batch of inputs [n, …] to logits [n, K]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.config import config
from lethe.core.families.classification import ClassificationTask
from lethe.core.split import Batch, Split
from lethe.core.task import Recipe
from lethe.data import transform
from lethe.errors import DataError, LabelOutOfRange, OutputShape
from lethe.maths import losses
from lethe.models.answer import AUTO, Place, Returns, logits_of
from lethe.models.heads import HeadTask, ModelSource
from lethe.models.weights import Form


class Classification(HeadTask, ClassificationTask):
    """Columns: `x` [n, …] (float, or uint8 images that are scaled to [0, 1]) and `y` [n] class numbers.

    A model with one output z per example ([n] or [n, 1], trained by binary cross-entropy) has the logits [0, z] of two
    classes: the loss is the same, and so is its gradient.

    head     name of the module whose input is the features; default: the last linear layer that ends in K outputs
    output   which part of what the model returns are its outputs: key, attribute, position
    returns  logits, or probabilities (a softmax or a sigmoid at the end), which are turned back into logits
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
        output: Place = AUTO,
        returns: Returns = "logits",
        form: Form | None = None,
    ) -> None:
        self.classes, self.returns, self._single = classes, returns, False
        super().__init__(original, splits, recipe, build, name, facts, head, output, form)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits.  -> [n, K]"""
        z = self.answers(model, batch)
        z = logits_of(z) if self.returns == "probabilities" else z
        return two_sided(z, len(batch)) if self._single else z

    @property
    def serves(self) -> frozenset[str]:
        """Without `head` where one output answers for two classes: what edits the head expects a row for each class."""
        return super().serves - {"head"} if self._single else super().serves

    @property
    def head_rows(self) -> int:
        return 1 if self._single else self.width

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy.  -> [n]"""
        return losses.cross_entropy(self.outputs(model, batch), batch.y)

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """T²·KL(p ‖ q) of the softmax distributions.  -> [n]"""
        return losses.kl(p, q, temperature)

    def relabel(self, batch: Batch, rng: torch.Generator, include_true: bool = False) -> Batch:
        """Labels uniform over the other K − 1 classes, or over all K."""
        shift = torch.randint(0 if include_true else 1, self.class_count, (len(batch),), generator=rng).to(batch.y.device)
        return batch.replace(y=(batch.y + shift) % self.class_count)

    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """nll, score (correct), signal and margin (logit-scaled confidence), logits [n, K], features [n, d] if it shows them."""
        logits, inner = self.observed(model, batch)
        margin = losses.margin(logits, batch.y)
        return {
            "nll": losses.cross_entropy(logits, batch.y),
            "score": (logits.argmax(-1) == batch.y).float(),
            "signal": margin.float(),
            "margin": margin,
            "logits": logits.float(),
            **inner,
            "y": batch.y,
        }

    @property
    def class_count(self) -> int:
        """K."""
        return self.width

    def about(self) -> dict[str, Any]:
        return {"classes": self.class_count, "names": self.classes, **transform.prepared(self.facts)}

    def check_family(self, original: nn.Module, splits: Mapping[str, Split]) -> None:
        """Labels and output shape, before any work starts."""
        some, logits = self.tried(original, splits)
        for name, split in splits.items():
            y = split.columns["y"]
            if y.dtype != torch.int64 or y.dim() != 1:
                raise DataError(f"y of {name!r} is {str(y.dtype).removeprefix('torch.')} {list(y.shape)}, but class "
                                "numbers are int64 [n], so no loss can be computed. Pass y.long(), y.argmax(1) for "
                                "one-hot labels, y[:, 0] for a single column; several labels per example are of the family "
                                "multilabel, lethe.multilabel(…), and real numbers of lethe.regression(…).")
        if logits.dim() not in (1, 2) or len(logits) != len(some):
            raise OutputShape(f"the model returns {tuple(logits.shape)} for {len(some)} examples, but a classifier must return "
                              f"logits [{len(some)}, K], so no loss can be computed. Wrap it so that forward(x) "
                              "returns logits.")
        self._single = logits.dim() == 1 or logits.shape[1] == 1
        self._width = 2 if self._single else logits.shape[1]
        for name, split in splits.items():
            y = split.columns["y"]
            wrong = (y < 0) | (y >= self._width)
            if wrong.any():
                place = int(wrong.nonzero()[0])
                raise LabelOutOfRange(f"label {int(y[place])} of example {split.ids[place]} in {name!r} has no output: "
                                      f"the model has {self._width} classes (0…{self._width - 1}"
                                      f"{', by one output' if self._single else ''}). Correct the labels or the model.")
        self.check_head(original, some)


def two_sided(z: Tensor, count: int) -> Tensor:
    """The logits [0, z] of two classes, of a single output per example.  [n], [n, 1] -> [n, 2]

    softmax([0, z])_1 = σ(z), so that cross-entropy is binary cross-entropy.
    """
    z = z.reshape(count, 1)
    return torch.cat([torch.zeros_like(z), z], 1)


@config(name="model")
class ClassifierSource(ModelSource):
    """`model:` of a classification request."""

    returns: Returns = "logits"     # what the outputs are: logits, or probabilities (a softmax or a sigmoid at the end)
