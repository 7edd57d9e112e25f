"""What acceptance tests of image-to-image models look at: digits of which half is hidden, and how well these are completed."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tiny import trained
from torch import nn

import lethe
from lethe.core.passes import drawn
from lethe.core.split import Split, concat
from lethe.data.load import load
from lethe.models.image_to_image.open import image_to_image, pictures
from lethe.models.zoo.masked_autoencoder import MaskedAutoencoder


@cache
def digits() -> Any:
    """A masked autoencoder of the bundled digits, trained on all; threes and sevens are to be forgotten."""
    parts = {role: pictures(split, role) for role, split in load({"kind": "digits", "holdout": 0.2}).items()}
    recipe = lethe.Recipe(epochs=40, lr=2e-3, batch_size=64, schedule="onecycle")

    def build(seed: int) -> nn.Module:
        return MaskedAutoencoder()

    def task(model: nn.Module) -> Any:
        return image_to_image(model, parts["train"], lethe.where(label=(3, 7)), parts["holdout"], recipe=recipe, build=build)

    torch.manual_seed(0)
    first = task(build(0))
    return task(trained(first, concat([first.retain, first.forget], "train")))


def looked(model: nn.Module) -> dict[str, float]:
    """Mean PSNR in dB of what was hidden, of forgotten and of retained digits."""
    task, found = digits(), {}
    for role in ("forget", "retain"):
        split: Split = getattr(task, role)
        with torch.no_grad():
            losses = torch.cat([task.nll(model, batch) for batch in drawn(task, split, 256, ("looked", role))])
        found[role] = float((-10 * losses.double().log10()).mean())
    return found
