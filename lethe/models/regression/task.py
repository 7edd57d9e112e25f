"""Regression and forecasting: any `nn.Module` that maps inputs [n, …] to real numbers [n], [n, 1] or [n, h].

    loss ℓ = mean over the h targets of e² (squared), |e| (absolute), or ½e² where |e| ≤ 1, |e| − ½ elsewhere (huber);  e = ŷ − y
    score  = exp(−ē/s),  ē = mean over the h targets of |e|, s = standard deviation of the training targets; in (0, 1], 1 is exact
    signal = −log(1 + ē/s): monotone in the error, less heavy-tailed than it; higher is more member-like
    divergence of predictions q from p = mean over the h targets of (p − q)²; a temperature means nothing here

What is unlearned may be single records or a range of targets (`where(query="y < 2")`).
Other targets (`relabel`), what methods teach instead of the true ones: `gaussian` draws mean + z·deviation of the training
targets, one z per example, clipped to their range (Tarun et al. 2023, arXiv:2210.08196); `retain` takes those of random
retained examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import config
from lethe.core.families.regression import RegressionTask
from lethe.core.split import Batch, Split
from lethe.core.store import with_columns
from lethe.core.task import Recipe
from lethe.errors import DataError, OutputShape, unknown_name
from lethe.maths import losses
from lethe.models.answer import AUTO, Place
from lethe.models.heads import HeadTask, ModelSource
from lethe.models.weights import Form

Loss = Literal["squared", "absolute", "huber"]
Others = Literal["gaussian", "retain"]
LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": lambda p, y: F.mse_loss(p, y, reduction="none"),
    "absolute": lambda p, y: F.l1_loss(p, y, reduction="none"),
    "huber": lambda p, y: F.huber_loss(p, y, reduction="none"),
}
OTHERS: tuple[Others, ...] = get_args(Others)


class Regression(HeadTask, RegressionTask):
    """Columns: `x` [n, …] (float, or uint8 images that are scaled to [0, 1]) and `y` float, [n] or [n, h].

    loss    squared | absolute | huber: what the recipe minimises
    others  gaussian | retain: where `relabel` takes other targets from
    head    name of the module whose input is the features; default: the last linear layer with h outputs
    """

    def __init__(
        self,
        original: nn.Module,
        splits: Mapping[str, Split],
        recipe: Recipe | None = None,
        build: Callable[[int], nn.Module] | None = None,
        name: str = "regression",
        facts: dict[str, Any] | None = None,
        loss: Loss = "squared",
        others: Others = "gaussian",
        head: str | None = None,
        output: Place = AUTO,
        form: Form | None = None,
    ) -> None:
        if loss not in LOSSES:
            raise unknown_name("loss of a regression", loss, LOSSES)
        if others not in OTHERS:
            raise unknown_name("source of other targets", others, OTHERS)
        self.loss, self.others = loss, others
        super().__init__(original, splits, recipe, build, name, facts, head, output, form)

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """The training loss.  -> [n]"""
        return LOSSES[self.loss](self.outputs(model, batch), rows(batch.y)).mean(1)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Predictions.  -> [n, h]"""
        return rows(super().outputs(model, batch).float())

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """Mean squared difference of predictions.  -> [n]"""
        return losses.squared_distance(p, q)

    def relabel(self, batch: Batch, rng: torch.Generator, include_true: bool = False) -> Batch:
        """Targets drawn as `others` selects.  y keeps its shape"""
        y = batch.y
        if self.others == "retain":
            kept = self.retain.columns["y"]
            drawn = kept[torch.randint(len(kept), (len(batch),), generator=rng)]
        else:
            z = torch.randn(len(batch), generator=rng).view(-1, *[1] * (y.dim() - 1))
            drawn = (self._mean + z * self._deviation).clamp(self._low, self._high)
        return batch.replace(y=drawn.to(y))

    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """nll, score (closeness), signal, prediction [n, h], y [n, h], features [n, d]."""
        prediction, inner = self.observed(model, batch)
        y = rows(batch.y)
        error = (prediction - y).abs().mean(1) / self.unit
        return {
            "nll": LOSSES[self.loss](prediction, y).mean(1),
            "score": torch.exp(-error),
            "signal": -torch.log1p(error),
            "prediction": prediction,
            "y": y,
            **inner,
        }

    def about(self) -> dict[str, Any]:
        return {**super().about(), "loss": self.loss}

    def check_family(self, original: nn.Module, splits: Mapping[str, Split]) -> None:
        """Targets and output shape, before any work starts."""
        for name, split in splits.items():
            y = split.columns.get("y")
            if y is not None and (not y.is_floating_point() or y.dim() not in (1, 2)):
                raise DataError(f"y of {name!r} is {str(y.dtype).removeprefix('torch.')} {list(y.shape)}, but targets of a "
                                "regression are float [n] or [n, h], so no error can be computed. Pass y.float(), in "
                                "a request data.target: number; for class numbers lethe.classification(…).")
        some, found = self.tried(original, splits)
        h = rows(some.y).shape[1]
        if found.dim() not in (1, 2) or tuple(rows(found).shape) != (len(some), h):
            raise OutputShape(f"the model returns {tuple(found.shape)} for {len(some)} examples with {h} targets each, so no "
                              f"error can be computed. Let forward(x) return [{len(some)}, {h}].")
        self._width = h
        targets = torch.cat([splits[key].columns["y"] for key in ("forget", "retain") if key in splits])
        self._mean, self._deviation = targets.mean(0), targets.std(0, correction=0)
        self._low, self._high = targets.amin(0), targets.amax(0)
        spread = float(rows(targets).double().std(correction=0))
        if spread == 0:
            raise DataError(f"all {len(targets)} training targets are {float(targets.flatten()[0]):g}, so there is nothing "
                            "to predict. Name the right target column.")
        self.unit = spread
        self.check_head(original, some)


def rows(y: Tensor) -> Tensor:
    """Targets or predictions with a column per horizon: [n] becomes [n, 1].

    Never left to broadcasting: [n, 1] − [n] would be [n, n] without an error.
    """
    return y.unsqueeze(1) if y.dim() == 1 else y


def numbered(data: Any, name: str, x: str | Sequence[str] = "x") -> Split:
    """`as_split` with real targets: whole numbers are values here, not classes."""
    from dataclasses import replace

    import numpy as np

    from lethe.data.arrays import as_split

    if isinstance(data, (tuple, list)) and len(data) == 2 and not isinstance(data[1], Tensor):
        given = np.asarray(data[1])
        data = (data[0], given.astype(np.float32) if given.dtype.kind in "iub" else given)
    split = as_split(data, name, x)
    y = split.columns["y"]
    return split if y.is_floating_point() else replace(split, columns=with_columns(split.columns, {"y": y.float()}))




@config(name="model")
class RegressionSource(ModelSource):
    """`model:` of a regression request: that of a classifier, and the loss."""

    loss: Loss = "squared"         # what the recipe minimises
    others: Others = "gaussian"    # where other targets for forgotten inputs come from


