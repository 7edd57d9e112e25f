"""What was saved is loaded again and asked: it must give the log-probabilities that were audited."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from lethe.core.modules import device_of, evaluating
from lethe.core.parked import released
from lethe.core.split import Batch
from lethe.errors import NotWritten

NEAR = 1e-4   # nats per token, and per nat where an answer is very unlikely: sums in another order differ by as much


def require_same(folder: Path, model: nn.Module, load: Callable[[], nn.Module], batch: Batch,
                 ask: Callable[[nn.Module, Batch], Tensor]) -> None:
    """NotWritten when the model that is loaded from a folder predicts these answers otherwise than the one that was saved. One
    after the other, so that the two need not be in memory together where the first is parked."""
    device = device_of(model)
    batch = batch.to(device)
    with evaluating(model):
        before = ask(model, batch)
    released(model)
    again = load().to(device)
    with evaluating(again):
        after = ask(again, batch)
    apart = (before - after).abs() / before.abs().clamp(min=1)
    if not bool((apart <= NEAR).all()):   # NaN is no agreement
        place = int(torch.nan_to_num(apart, nan=torch.inf).argmax())
        told = [float(values.flatten()[place]) for values in (before, after)]
        raise NotWritten(f"what was saved to {folder.name} and loaded again gives a token the log-probability {told[1]:.5g}, and "
                         f"the model that was audited {told[0]:.5g}, so the evidence would not be about the files; they were not "
                         "kept. "
                         "Please report the architecture: its weights are not written as they are read.")
