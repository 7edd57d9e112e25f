"""1797 grey images of digits, 8 × 8, in 10 classes, bundled with scikit-learn (Alpaydin & Kaynak 1998)."""

from __future__ import annotations

import numpy as np
import torch

from lethe.core.config import config
from lethe.core.split import Split
from lethe.data.context import Context


@config(name="data")
class Digits:
    """Inputs [n, 1, 8, 8] in [0, 1]."""


def read(cfg: Digits, context: Context, name: str) -> dict[str, Split]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels).float().div(16).view(-1, 1, 8, 8)   # values are 0…16
    ids = np.array([f"digits:{i}" for i in range(len(x))])
    return {name: Split({"x": x, "y": torch.from_numpy(labels).long()}, name, ids)}
