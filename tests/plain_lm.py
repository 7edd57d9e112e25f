"""What language models say, spelled out in plain transformers: for steps by hand, with no operation of a task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lethe.core.split import Split


def seen(model: Any, split: Split) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that predict every place, the tokens there, and which are an answer's.  -> [n, T−1, V], [n, T−1], [n, T−1]"""
    labels = split.columns["labels"][:, 1:]
    return model(input_ids=split.columns["ids"]).logits[:, :-1], labels.clamp(min=0), labels != -100


def logp(model: Any, split: Split) -> tuple[Tensor, Tensor]:
    """log p of the true token at every place, 0 outside the answers, and which are an answer's."""
    logits, tokens, kept = seen(model, split)
    return logits.log_softmax(-1).gather(2, tokens.unsqueeze(2)).squeeze(2) * kept, kept


def sums(model: Any, split: Split) -> Tensor:
    """log p of whole answers.  -> [n]"""
    return logp(model, split)[0].sum(1)


def mean(values: Tensor, kept: Tensor) -> Tensor:
    """Over the tokens of each answer, then over answers.  -> []"""
    return ((values * kept).sum(1) / kept.sum(1)).mean()


def nll(model: Any, split: Split) -> Tensor:
    """Mean over answers of the mean negative log-probability of their tokens.  -> []"""
    values, kept = logp(model, split)
    return -mean(values, kept)


def answers(values: Tensor, kept: Tensor) -> list[Tensor]:
    """Values at the places of each answer, one tensor for each."""
    return [row[mask] for row, mask in zip(values, kept, strict=True)]


def before(model: Any, split: Split) -> Tensor:
    """Logits of a model that does not move."""
    with torch.no_grad():
        found: Tensor = seen(model.eval(), split)[0]
        return found
