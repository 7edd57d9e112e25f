"""Multi-label classification: any `nn.Module` that maps inputs [n, …] to the logits [n, L] of L labels that are there or not.

    loss ℓ = mean over the labels of −y·log σ(z) − (1 − y)·log(1 − σ(z))      z logit, y in {0, 1}
    score  = share of the labels that are right, those with z > 0 called 1: accuracy as the mean over labels
    signal = mean over the labels of (2y − 1)·z, the log-odds of the truth; higher is more member-like
    divergence of logits q from p = T² · mean over the labels of KL(Bernoulli σ(p/T) ‖ Bernoulli σ(q/T))

Records are forgotten by their ids or other columns. Other labels (`relabel`) are drawn one by one, each by its frequency in
the training data, so that they say nothing of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.families.multilabel import MultilabelTask
from lethe.core.split import Batch, Split
from lethe.core.store import with_columns
from lethe.core.task import Recipe
from lethe.errors import DataError, OutputShape
from lethe.models.answer import AUTO, Place
from lethe.models.heads import HeadTask
from lethe.models.weights import Form


class Multilabel(HeadTask, MultilabelTask):
    """Columns: `x` [n, …] (float, or uint8 images that are scaled to [0, 1]) and `y` [n, L] of 0 and 1.

    head    name of the module whose input is the features; default: the last linear layer with L outputs
    """

    def __init__(
        self,
        original: nn.Module,
        splits: Mapping[str, Split],
        recipe: Recipe | None = None,
        build: Callable[[int], nn.Module] | None = None,
        name: str = "multilabel",
        facts: dict[str, Any] | None = None,
        head: str | None = None,
        output: Place = AUTO,
        form: Form | None = None,
    ) -> None:
        checked = {role: as_bytes(split) for role, split in splits.items()}
        super().__init__(original, checked, recipe, build, name, facts, head, output, form)

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """Binary cross-entropy, mean over labels.  -> [n]"""
        return binary_cross_entropy(self.outputs(model, batch), batch.y)

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """T²·KL of the labels' distributions, mean over labels.  -> [n]"""
        return bernoulli_kl(p, q, temperature)

    def relabel(self, batch: Batch, rng: torch.Generator, include_true: bool = False) -> Batch:
        """Labels drawn by their frequencies in the training data."""
        drawn = torch.rand(batch.y.shape, generator=rng) < self._shares
        return batch.replace(y=drawn.to(batch.y))

    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """nll, score (share of right labels), signal (mean log-odds of the truth), features [n, d]."""
        logits, inner = self.observed(model, batch)
        logits, truth = logits.float(), batch.y
        return {
            "nll": binary_cross_entropy(logits, truth),
            "score": ((logits > 0) == (truth > 0)).float().mean(1),
            "signal": (logits * (2 * truth.float() - 1)).mean(1),
            **inner,
        }

    def check_family(self, original: nn.Module, splits: Mapping[str, Split]) -> None:
        """Output shape, before any work starts."""
        some, found = self.tried(original, splits)
        if tuple(found.shape) != tuple(some.y.shape):
            raise OutputShape(f"the model returns {tuple(found.shape)} for {len(some)} examples with {some.y.shape[1]} labels "
                              f"each, so no loss can be computed. Let forward(x) return logits [{len(some)}, {some.y.shape[1]}].")
        self._width = some.y.shape[1]
        known = [splits[key].columns["y"].float() for key in ("forget", "retain") if key in splits]
        self._shares = torch.cat(known or [some.y.float()]).mean(0)
        self.check_head(original, some)


def as_bytes(split: Split) -> Split:
    """The split with its labels [n, L] as bytes; DataError unless they are 0 and 1."""
    y = split.columns.get("y")
    if y is None:
        return split
    if y.dim() != 2:
        raise DataError(f"y of {split.name} is {str(y.dtype).removeprefix('torch.')} {list(y.shape)}, but several labels per "
                        "example are [n, L] of 0 and 1, so no loss can be computed. For one class number per example use "
                        "family: classification.")
    wrong = (y != 0) & (y != 1)
    if wrong.any():
        place = int(wrong.any(1).nonzero()[0])
        odd = y[place][wrong[place]][0].item()
        raise DataError(f"y of {split.name} holds {odd:g} (id {split.ids[place]}), but a label is there (1) "
                        "or not (0), so no loss can be computed. Store 0 and 1.")
    return split if y.dtype == torch.uint8 else replace(split, columns=with_columns(split.columns, {"y": y.to(torch.uint8)}))


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over labels, in float32.  [n, L], [n, L] of 0 and 1 -> [n]

    logits [[0, ln 3]], labels [[1, 1]]: (ln 2 + ln 4/3)/2 = 0.49041.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none").mean(1)


def bernoulli_kl(p: Tensor, q: Tensor, temperature: float = 1.0) -> Tensor:
    """T²·mean over labels of KL(σ(p/T) ‖ σ(q/T)) in nats.  [n, L], [n, L] -> [n]

    p [[0]], q [[ln 3]]: ½·ln(½/¾) + ½·ln(½/¼) = 0.14384.
    """
    p, q = p.float() / temperature, q.float() / temperature
    yes = torch.sigmoid(p) * (F.logsigmoid(p) - F.logsigmoid(q))
    no = torch.sigmoid(-p) * (F.logsigmoid(-p) - F.logsigmoid(-q))
    return temperature**2 * (yes + no).mean(1)
