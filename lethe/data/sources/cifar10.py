"""CIFAR-10: 50000 + 10000 colour images, 32 × 32, in 10 classes (Krizhevsky 2009), as JPEG with one shared header.

Decoded once into the cache folder. JPEG coding costs accuracy: models trained on the lossless pictures score lower.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import torch

from lethe.core.config import config
from lethe.core.split import Split
from lethe.data.context import Context
from lethe.data.paths import cached, existing, from_root
from lethe.data.pictures import shared_header
from lethe.data.sources.npz import opened


@config(name="data")
class Cifar10:
    """Inputs [n, 3, 32, 32] as bytes; parts train and test; column `class` holds the names."""

    path: str = ""   # folder with cifar10_train.npz and cifar10_test.npz; empty: images/ in the folder of data sets
    parts: Literal["both", "test"] = "both"   # test: its 10000 pictures are all there is, also to train on


def read(cfg: Cifar10, context: Context, name: str) -> dict[str, Split]:
    folder = from_root(context, cfg.path, "images")
    splits = {}
    for part in ("train", "test") if cfg.parts == "both" else ("test",):
        source = existing(folder / f"cifar10_{part}.npz")
        archive = opened(source, False)
        pixels = cached(context, source, "pixels", partial(shared_header, archive))
        names = archive["classes"][archive["label"]].tolist()
        ids = np.array([f"cifar10-{part}:{i}" for i in range(len(names))])
        columns = {"x": torch.from_numpy(pixels), "y": torch.from_numpy(archive["label"]).long()}
        own = part if cfg.parts == "both" else name
        splits[own] = Split(columns, own, ids, {"class": names})
    return splits
