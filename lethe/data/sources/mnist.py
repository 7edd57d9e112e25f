"""MNIST: 60000 + 10000 grey images of digits, 28 × 28, in 10 classes (LeCun, Cortes & Burges)."""

from __future__ import annotations

import numpy as np
import torch

from lethe.core.config import config
from lethe.core.split import Split
from lethe.data.context import Context
from lethe.data.paths import from_root
from lethe.data.sources.npz import opened


@config(name="data")
class Mnist:
    """Inputs [n, 1, 28, 28] as bytes; parts train and test."""

    path: str = ""   # .npz with x_train, y_train, x_test, y_test; empty: images/mnist.npz in the folder of data sets


def read(cfg: Mnist, context: Context, name: str) -> dict[str, Split]:
    archive = opened(from_root(context, cfg.path, "images/mnist.npz"), False)
    splits = {}
    for part in ("train", "test"):
        x, y = torch.from_numpy(archive[f"x_{part}"]).unsqueeze(1), torch.from_numpy(archive[f"y_{part}"]).long()
        splits[part] = Split({"x": x, "y": y}, part, np.array([f"mnist-{part}:{i}" for i in range(len(y))]))
    return splits
