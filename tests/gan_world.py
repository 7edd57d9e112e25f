"""What acceptance tests of GANs look at: how many samples are undesired, and how far the others are from real data."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lethe.core.split import pixels
from lethe.maths.frechet import frechet_of


def looked(task: Any, model: nn.Module, undesired: int) -> tuple[float, float]:
    """(share of 2,000 seeded samples that the reader takes for `undesired`, Fréchet distance of the others to the retain set)."""
    with torch.no_grad():
        samples = task.imagine(model, task.latents(2000, 7))
    gone = task.read(samples).argmax(1) == undesired
    real = task.read_features(pixels(task.retain.columns["x"]))
    return float(gone.double().mean()), frechet_of(task.read_features(samples[~gone]), real)
