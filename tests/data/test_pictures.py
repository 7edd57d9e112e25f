"""Pictures are read as they are meant, or refused by name."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lethe.data.load import load
from lethe.errors import DataError

GREYS = np.array([[10, 60], [110, 160], [210, 250]], dtype=np.uint8)   # 3 high, 2 wide


def folder(place: Path, **files: Image.Image) -> Path:
    """A plain picture of each of two classes, and the given ones."""
    for name in ("a", "b"):
        (place / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(GREYS).save(place / name / "plain.png")
    for name, image in files.items():
        image.save(place / "a" / f"{name}.png")
    return place


def read(place: Path, name: str, **options: object) -> np.ndarray:
    split = load({"kind": "images", "path": str(place), **options})["train"]
    found: np.ndarray = split.columns["x"][split.ids.tolist().index(name)].numpy()
    return found


@pytest.mark.parametrize(("orientation", "upright"), [(3, np.rot90(GREYS, 2)), (2, GREYS[:, ::-1])])
def test_a_picture_is_turned_upright_as_its_camera_says(tmp_path: Path, orientation: int, upright: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREYS).save(folder(tmp_path) / "a" / "turned.png", exif=exif)
    assert np.array_equal(read(tmp_path, "a/turned.png")[0], upright)


def test_a_picture_turned_by_a_quarter_has_its_sides_exchanged(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(GREYS).save(tmp_path / name / "turned.png", exif=exif)
    assert np.array_equal(read(tmp_path, "a/turned.png")[0], np.rot90(GREYS, -1))


def test_transparency_stands_on_what_was_asked_for(tmp_path: Path) -> None:
    clear = np.dstack([np.full((3, 2), 100), np.full((3, 2), 100), np.full((3, 2), 100), GREYS]).astype(np.uint8)
    place = folder(tmp_path, clear=Image.fromarray(clear), full=Image.new("RGBA", (2, 3), (7, 7, 7, 255)))
    with pytest.raises(DataError, match=r"a/clear\.png is partly transparent.*white or black"):
        read(place, "a/clear.png")
    assert (read(place, "a/clear.png", transparent="ignore") == 100).all()
    for ground, value in (("white", 255), ("black", 0)):
        wanted = np.round(value + (100 - value) * (GREYS / 255.0))
        assert abs(read(place, "a/clear.png", transparent=ground).astype(float)[0] - wanted).max() <= 1   # rounding of bytes
    (place / "a" / "clear.png").unlink()
    assert (read(place, "a/full.png") == 7).all()   # nothing shines through: no choice to make


def png16(path: Path, colour: int, channels: int) -> None:
    row = b"\0" + struct.pack(f">{2 * channels}H", *[40000] * (2 * channels))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 2, 3, 16, colour, 0, 0, 0)), (b"IDAT", zlib.compress(row * 3)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts))


def unreadable(place: Path) -> dict[str, str]:
    """Files that mean more than bytes of grey or RGB can hold -> what their refusal says."""
    frames = [Image.new("RGB", (2, 3), (i, 0, 0)) for i in (1, 9)]
    frames[0].save(place / "moving.png", save_all=True, append_images=frames[1:])
    frames[0].save(place / "pages.tif", save_all=True, append_images=frames[1:])
    Image.new("CMYK", (2, 3)).save(place / "print.jpg")
    Image.new("LAB", (2, 3)).save(place / "lab.tif")
    png16(place / "deep.png", 0, 1)
    png16(place / "deeprgb.png", 2, 3)
    (place / "deep.ppm").write_bytes(b"P6 2 3 65535\n" + b"\x01\x02" * 18)
    (place / "torn.png").write_bytes((place.parent / "b" / "plain.png").read_bytes()[:50])
    os.mkfifo(place / "pipe.png")
    return {"moving.png": "holds 2 pictures", "pages.tif": "holds 2 pictures", "print.jpg": "CMYK", "lab.tif": "LAB",
            "deep.png": "8 bits", "deeprgb.png": "8 bits", "deep.ppm": "8 bits", "torn.png": "cannot be decoded",
            "pipe.png": "no regular file"}


def test_what_bytes_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    made = unreadable(folder(tmp_path) / "a")
    for name in made:
        os.rename(tmp_path / "a" / name, tmp_path / name)
    for name, why in made.items():
        os.rename(tmp_path / name, tmp_path / "a" / name)
        with pytest.raises(DataError, match=rf"{name}.*{why}"):
            read(tmp_path, "a/plain.png")
        (tmp_path / "a" / name).unlink()
