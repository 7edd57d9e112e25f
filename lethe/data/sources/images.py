"""A folder of images with one sub-folder per class: path/cat/001.png. Order and class numbers follow sorted names.

With sub-folders train, test, holdout (or val) alone, each of these holds the classes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from lethe.core.config import Count, config
from lethe.core.split import Split
from lethe.data import encode as encoding
from lethe.data.context import Context
from lethe.data.paths import existing
from lethe.data.pictures import Colour, Transparent, opened, stacked
from lethe.errors import EmptySplit

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
PARTS = {"train": "train", "test": "test", "holdout": "holdout", "val": "holdout", "validation": "holdout"}


@config(name="data")
class Images:
    """Inputs [n, C, H, W] as bytes; ids are paths below the folder; column `class` is the sub-folder."""

    path: str                                        # the folder
    size: Count | tuple[Count, Count] | None = None  # resize all to (height, width), or to a square
    colour: Colour = "auto"                          # auto: grey when every image is
    transparent: Transparent = "refuse"              # what transparent images stand on; ignore: colours as stored
    classes: tuple[str, ...] = ()                    # order of the class numbers; empty: sorted names


def read(cfg: Images, context: Context, name: str) -> dict[str, Split]:
    root = existing(cfg.path)
    below = _folders(root) if root.is_dir() else []
    if not below:
        raise EmptySplit(f"{root} has no sub-folders, so there are no classes. Put the images of each class into a "
                         "folder of its own.")
    if {p.name for p in below} <= PARTS.keys():
        return {PARTS[p.name]: _classes(cfg, p, PARTS[p.name]) for p in below}
    return {name: _classes(cfg, root, name)}


def encode(cfg: Images, splits: dict[str, Split]) -> dict[str, Split]:
    pixels = {part: split.columns["x"] for part, split in splits.items()}
    if len({x.shape[1] for x in pixels.values()}) > 1:   # some part has colours, so every part gets them
        splits = {part: encoding.with_column(splits[part], "x", x.expand(-1, 3, -1, -1).contiguous())
                  for part, x in pixels.items()}
    return encoding.targets(splits, "class", "class", cfg.classes)


def _classes(cfg: Images, root: Path, part: str) -> Split:
    files = [file for folder in _folders(root) for file in sorted(folder.rglob("*"))
             if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
    if not files:
        raise EmptySplit(f"{root} holds no images in sub-folders, so there is nothing to work on. Known endings: "
                         f"{', '.join(sorted(SUFFIXES))}.")
    names = [file.relative_to(root).as_posix() for file in files]
    size = (cfg.size, cfg.size) if isinstance(cfg.size, int) else cfg.size
    x = stacked([partial(opened, file, str(file), cfg.transparent) for file in files], names, size, cfg.colour)
    ids = np.array(names if part == "train" else [f"{part}/{name}" for name in names])
    return Split({"x": x}, part, ids, {"class": [name.split("/")[0] for name in names]})


def _folders(root: Path) -> list[Path]:
    return [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
