"""Pictures with captions, as the split that a denoiser is trained on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lethe.core.split import Split
from lethe.errors import RequestError, WrongColumn
from lethe.models.diffusion.denoiser import denoiser_of
from lethe.models.diffusion.pipeline import Pipeline


def captioned(parts: Pipeline, images: Split | Sequence[tuple[Tensor, str]], name: str) -> Split:
    """Pictures in [−1, 1] with captions as the split that the UNet is trained on: encoded, and with token ids."""
    if not isinstance(images, Split):
        captions = [text for _, text in images]
        images = Split({"image": torch.stack([picture for picture, _ in images])}, name, meta={"caption": captions})
    if "caption" not in images.meta or "image" not in images.columns:
        raise WrongColumn(f"{name!r} has no column image or caption; pictures to learn or forget need both.")
    encoded = torch.cat([parts.encode(some) for some in images.columns["image"].split(64)])
    columns = {"image": encoded, "tokens": denoiser_of(parts).tokens(list(images.meta["caption"]))}
    covered = {key: images.columns[key] for key in ("mask",) if key in images.columns}
    return Split({**columns, **covered}, images.name, images.ids, images.meta)


def pictures(folder: Path, parts: Pipeline) -> Split:
    """A folder of image files with captions.csv (columns file, caption), in [−1, 1] at the pipeline's size; and where it has a
    column mask, what these files show in white, as the column `mask`: nothing, where none is named."""
    from PIL import Image

    table = folder / "captions.csv"
    if not table.exists():
        raise RequestError(f"{table} does not exist, so the pictures have no captions. Write it with the columns file "
                           "and caption.")
    _, height, width = denoiser_of(parts).shape
    size = (width * parts.factor, height * parts.factor)
    with open(table, encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.DictReader(handle))

    def seen(name: str, mode: str) -> Tensor:
        return torch.from_numpy(np.asarray(Image.open(folder / name).convert(mode).resize(size)).copy())

    columns: dict[str, Tensor] = {"image": torch.stack([
        seen(row["file"], "RGB").permute(2, 0, 1).float() / 127.5 - 1 for row in rows])}
    if rows and "mask" in rows[0]:
        none = torch.zeros(1, size[1], size[0], dtype=torch.bool)
        columns["mask"] = torch.stack([seen(row["mask"], "L").unsqueeze(0) > 127 if row["mask"] else none for row in rows])
    meta = {"caption": [row["caption"] for row in rows]}
    return Split(columns, "train", np.array([row["file"] for row in rows]), meta)
