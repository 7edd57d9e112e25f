"""Pictures as one tensor of bytes [n, C, H, W]; classifiers scale it to [0, 1]."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lethe.data.arrays import empty
from lethe.errors import DataError

Colour = Literal["auto", "grey", "rgb"]
Transparent = Literal["refuse", "white", "black", "ignore"]
GREY_MODES = ("1", "L", "LA")
MODES = ("1", "L", "P", "RGB", "YCbCr", "LA", "PA", "RGBA", "RGBX")   # whose conversion to bytes of grey or RGB loses nothing


def opened(source: bytes | Path, name: str, transparent: Transparent = "refuse") -> Any:
    """A PIL image, fully decoded, upright (EXIF orientation applied) and without transparency, in mode L or RGB.

    Refused by name: animations, more than 8 bits per channel, CMYK and other colour spaces that need a profile.
    """
    from PIL import Image, ImageOps

    if isinstance(source, Path) and not source.is_file():   # opening a pipe would wait for ever
        raise DataError(f"{name} is no regular file, so there is no picture to read. Remove it.")
    try:
        image: Any = Image.open(io.BytesIO(source if isinstance(source, bytes) else source.read_bytes()))
        _require_plain(image, name)
        image.load()
        image = ImageOps.exif_transpose(image)
    except DataError:
        raise
    except Exception as error:   # decoders of damaged files raise anything
        raise DataError(f"{name} cannot be decoded ({error}), so the data would have a hole. Repair or remove "
                        "it.") from None
    return image_of(image, name, transparent)


def image_of(image: Any, name: str, transparent: Transparent = "refuse") -> Any:
    """A decoded PIL image in mode L or RGB; DataError for what these cannot hold."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        raise _too_deep(name, f"mode {image.mode}")
    if image.mode not in MODES:
        raise DataError(f"{name} is a {image.mode} picture, whose colours cannot be turned into RGB without its profile. Convert "
                        "it to RGB where it was made.")
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if not image.has_transparency_data or transparent == "ignore":
        return image.convert(mode)
    full = image.convert("RGBA")
    if full.getchannel("A").getextrema()[0] == 255:
        return image.convert(mode)
    if transparent == "refuse":
        raise DataError(f"{name} is partly transparent, so what a model would see depends on what lies behind it. Set "
                        "data.transparent to white or black (the background), or to ignore (the colours as they are stored).")
    return Image.alpha_composite(Image.new("RGBA", full.size, transparent), full).convert(mode)


def _require_plain(image: Any, name: str) -> None:
    """DataError for animations and deep colours; a header is enough, and decoding would cut channels to 8 bits in silence."""
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":   # a camera's picture with a preview behind it
        raise DataError(f"{name} holds {image.n_frames} pictures (an animation, or pages), so it is not clear which one is "
                        "meant. Save the one you mean as a file of its own.")
    for tile in image.tile:
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        deep = (tile[0].startswith("ppm") and args[-1] > 255) or any(";16" in arg for arg in args if isinstance(arg, str))
        if deep:
            raise _too_deep(name, "16 bits" if not tile[0].startswith("ppm") else f"values up to {args[-1]}")


def _too_deep(name: str, why: str) -> DataError:
    return DataError(f"{name} has more than 8 bits per channel ({why}); bytes would cut its values off. Convert it to 8 bits, or "
                     "provide the pixels as an array (kind: npz).")


def stacked(images: Sequence[Callable[[], Any]], names: Sequence[str], size: tuple[int, int] | None, colour: Colour) -> Tensor:
    """Pictures as [n, C, H, W] bytes; resized (bilinear) when `size` = (height, width) is given.

    images  each returns one as `opened` does; they are read one after the other, so that only the bytes stay
    colour  auto: one channel when every image is grey, else RGB
    """
    from PIL import Image

    block: Tensor | None = None
    for place, (read, name) in enumerate(zip(images, names, strict=True)):
        image = read()
        mode = {"grey": "L", "rgb": "RGB", "auto": image.mode if block is None or block.shape[1] == 1 else "RGB"}[colour]
        image = image.convert(mode)
        if size is not None and image.size != size[::-1]:
            image = image.resize(size[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image))
        pixels = pixels.unsqueeze(0) if mode == "L" else pixels.permute(2, 0, 1)
        if block is None:
            block = empty((len(images), *pixels.shape), torch.uint8)
        if pixels.shape[1:] != block.shape[2:]:
            first, other = tuple(block.shape[2:]), tuple(pixels.shape[1:])
            raise DataError(f"images have different sizes (height, width): {names[0]} is {first}, {name} is {other}, so they do "
                            f"not fit into one tensor. Set size: [{first[0]}, {first[1]}] to resize all.")
        if len(pixels) > block.shape[1]:   # the first one with colours
            block = block.expand(-1, 3, -1, -1).contiguous()
        block[place] = pixels
    assert block is not None, "no images"
    return block


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
