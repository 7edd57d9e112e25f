"""Pictures as a pair's image encoder sees them: size, channels, mean and deviation, and files with captions as such pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lethe.core.split import Split, pixels
from lethe.data.pictures import opened
from lethe.errors import DataError, RequestError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Eye:
    """What the image encoder takes: `side` pixels a side, `channels`; inputs in [0, 1] less `mean`, over `std`."""

    side: int
    channels: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @classmethod
    def of(cls, folder: Path, side: int, channels: int = 3) -> Eye:
        """As `preprocessor_config.json` of the folder says; CLIP's own mean and deviation without it."""
        file = folder / "preprocessor_config.json"
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        mean, std = (tuple(map(float, told.get(key, usual)))
                     for key, usual in (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD)))
        return cls(side, channels, mean, std)

    def taken(self, images: Tensor) -> Tensor:
        """Pictures of any size, grey or coloured, at the encoder's size and with its channels; bytes stay bytes.

        [n, c, h, w] -> [n, C, side, side]. The middle of the picture, its shorter side brought to the size (bilinear).
        """
        if images.shape[1] == 1 < self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        height, width = images.shape[2:]
        if (height, width) == (self.side, self.side):
            return images.contiguous()
        share = self.side / min(height, width)
        size = (max(self.side, round(height * share)), max(self.side, round(width * share)))
        grown = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
        top, left = (size[0] - self.side) // 2, (size[1] - self.side) // 2
        cut = grown[:, :, top : top + self.side, left : left + self.side]
        return cut.round().clamp(0, 255).byte() if images.dtype == torch.uint8 else cut.contiguous()

    def seen(self, images: Tensor) -> Tensor:
        """What enters the encoder.  [n, C, side, side] bytes or floats in [0, 1] -> the same in floats"""
        x = pixels(images)
        mean, std = (torch.tensor(value, dtype=x.dtype, device=x.device).view(1, -1, 1, 1) for value in (self.mean, self.std))
        return (x - mean) / std


def captioned(folder: Path, eye: Eye) -> Split:
    """A folder of pictures with captions.csv: columns file, caption, and class where there is one. Files are ids."""
    table = folder / "captions.csv"
    if not table.is_file():
        raise RequestError(f"{table} does not exist, so the pictures have no captions and nothing was started. Write it with the "
                           "columns file and caption, and class where captions do not name one.")
    with open(table, encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.DictReader(handle))
    known = list(rows[0]) if rows else []
    if not {"file", "caption"} <= set(known):
        raise DataError(f"{table} has the columns {', '.join(known) or 'none'}, and no file or no caption, so it is not known "
                        "which text belongs to which picture; nothing was started. Name them file and caption.")
    bare = [row["file"] for row in rows if not (row["caption"] or "").strip()]
    listed = {row["file"] for row in rows}
    left = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".bmp")
                  and path.name not in listed)
    for what, names, remedy in (("have an empty caption", bare, "Write one, or take the rows out."),
                                ("have no row in captions.csv", left, "Write one, or move them elsewhere.")):
        if names:
            raise DataError(f"{len(names)} pictures of {folder} {what} ({', '.join(names[:3])}), so a pair would lack its text; "
                            f"nothing was started. {remedy}")
    images = [_read(folder / row["file"], eye) for row in rows]
    meta: dict[str, Sequence[str]] = {"caption": [row["caption"].strip() for row in rows]}
    if "class" in known:
        meta["class"] = [(row["class"] or "").strip() for row in rows]
    return Split({"image": torch.cat(images)}, "train", np.array([row["file"] for row in rows]), meta)


def _read(path: Path, eye: Eye) -> Tensor:
    """One picture.  -> [1, C, side, side] bytes"""
    image = opened(path, str(path)).convert("RGB" if eye.channels == 3 else "L")
    array = torch.from_numpy(np.array(image))
    return eye.taken((array.permute(2, 0, 1) if array.dim() == 3 else array.unsqueeze(0)).unsqueeze(0))
