"""Pictures as one tensor of bytes [n, C, H, W]; classifiers scale it to [0, 1]."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lethe.errors import DataError

Colour = Literal["auto", "grey", "rgb"]
GREY_MODES = ("1", "L", "LA")


def opened(source: bytes | Path, name: str) -> Any:
    """A PIL image, fully decoded."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(source if isinstance(source, bytes) else source.read_bytes()))
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{name} cannot be decoded ({error}), so the data would have a hole. Repair or remove "
                        "it.") from None
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{name} has more than 8 bits per channel (mode {image.mode}); bytes would cut its values off. "
                        "Convert it to 8 bits, or provide the pixels as an array (kind: npz).")
    return image


def stacked(images: Iterable[Any], names: Sequence[str], size: tuple[int, int] | None, colour: Colour) -> Tensor:
    """PIL images as [n, C, H, W] bytes; resized (bilinear) when `size` = (height, width) is given.

    colour  auto: one channel when every image is grey, else RGB
    """
    found = list(images)
    mode = {"grey": "L", "rgb": "RGB", "auto": "L" if all(i.mode in GREY_MODES for i in found) else "RGB"}[colour]
    arrays = []
    for image in found:
        image = image.convert(mode)
        if size is not None and image.size != size[::-1]:
            from PIL import Image

            image = image.resize(size[::-1], Image.Resampling.BILINEAR)
        arrays.append(np.asarray(image))
    shapes = Counter(a.shape[:2] for a in arrays)
    if len(shapes) > 1:
        (common, count), (other, _) = shapes.most_common(2)
        which = next(n for n, a in zip(names, arrays, strict=True) if a.shape[:2] == other)
        raise DataError(f"images have {len(shapes)} sizes (height, width): {count} of {len(arrays)} are {common}, "
                        f"{which} is {other}, so they do not fit into one tensor. Set size: [{common[0]}, "
                        f"{common[1]}] to resize all.")
    block = torch.from_numpy(np.stack(arrays))
    return (block.unsqueeze(1) if mode == "L" else block.permute(0, 3, 1, 2)).contiguous()


def shared_header(archive: Mapping[str, np.ndarray], prefix: str = "") -> np.ndarray:
    """JPEG pictures that share their headers, decoded.  -> [n, 3, H, W] bytes

    Picture i is a header followed by `scan[offset[i]:offset[i+1]]`: the only one (`header`), or `header_k` with k from
    `header_id[i]`.
    """
    scan, offset = archive[f"{prefix}scan"], archive[f"{prefix}offset"]
    out: np.ndarray | None = None
    for i in range(len(offset) - 1):
        header = archive["header"] if "header" in archive else archive[f"header_{archive[f'{prefix}header_id'][i]}"]
        picture = opened(header.tobytes() + scan[offset[i] : offset[i + 1]].tobytes(), f"picture {i}").convert("RGB")
        pixels = np.asarray(picture).transpose(2, 0, 1)
        if out is None:
            out = np.empty((len(offset) - 1, *pixels.shape), dtype=np.uint8)
        out[i] = pixels
    assert out is not None, "an archive without pictures"
    return out
