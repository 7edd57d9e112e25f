"""Running statistics of batch norm, measured anew."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lethe.core.modules import NORMS, evaluating
from lethe.core.split import Batch
from lethe.train.terms import Loss


def measure_running(model: nn.Module, ask: Loss, batches: Iterable[Batch]) -> None:
    """Running statistics of batch norm as these data have them, under the model's weights; dropout stays off. ask: any pass"""
    norms = [m for m in model.modules() if isinstance(m, NORMS) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    if not norms:
        return
    with evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None   # a cumulative mean
            norm.train()
        for batch in batches:
            ask(model, batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
