"""25 classes of Tiny ImageNet in 5 superclasses: 3000 + 1000 colour images, 64 × 64, JPEG with shared headers.

Decoded once into the cache folder. Coarse concepts can be selected by the column `superclass`.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import torch

from lethe.core.config import config
from lethe.core.split import Split
from lethe.data.context import Context
from lethe.data.paths import cached, from_root
from lethe.data.pictures import shared_header
from lethe.data.sources.npz import opened


@config(name="data")
class TinyImagenet:
    """Inputs [n, 3, 64, 64] as bytes; parts train and test (the published validation part)."""

    path: str = ""         # the archive; empty: images/tiny_imagenet25.npz in the folder of data sets
    label: Literal["class", "superclass"] = "class"   # 25 or 5: what the model predicts; both can be selected by


def read(cfg: TinyImagenet, context: Context, name: str) -> dict[str, Split]:
    source = from_root(context, cfg.path, "images/tiny_imagenet25.npz")
    archive = opened(source, False)
    _, numbers = np.unique(archive["superclass_of_class"], return_inverse=True)
    splits = {}
    for part, key in (("train", "train"), ("test", "val")):
        pixels = cached(context, source, key, partial(shared_header, archive, f"{key}_"))
        labels = archive[f"{key}_label"]
        names, coarse = archive["class_name"][labels], archive["superclass_of_class"][labels]
        meta = {"class": names.tolist(), "superclass": coarse.tolist()}
        ids = np.array([f"tiny-imagenet-{part}:{i}" for i in range(len(labels))])
        y = labels if cfg.label == "class" else numbers[labels]
        columns = {"x": torch.from_numpy(pixels), "y": torch.from_numpy(y).long()}
        splits[part] = Split(columns, part, ids, meta)
    return splits
