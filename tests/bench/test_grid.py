"""The grid of pictures: every method at its largest dose on the first original, the same prompts in every row."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from lethe.bench.grid import grids
from lethe.bench.suite import Suite
from lethe.bench.unit import Finding
from lethe.models.gallery import png
from lethe.results.schema import ImageSample

SUITE = Suite(keep=("spared",), requests={"object: little": {}, "object: more": {}, "style: little": {}})


def found(method: str, dose: str, seed: int, level: float) -> Finding:
    pictures = {"before": png(torch.full((4, 3, 8, 8), -1.0)), "after": png(torch.full((4, 3, 8, 8), level))}
    return Finding(f"object: {dose}", seed, method, samples=tuple(
        ImageSample(caption=caption, **pictures) for caption in ("a red disk", "a red square")))


def test_a_row_is_the_largest_dose_on_the_first_original(tmp_path: Path) -> None:
    some = [found("esd", "more", 1, 0.2), found("esd", "more", 0, 1.0), found("esd", "little", 0, -0.2),
            found("uce", "more", 0, 0.0)]
    (path,) = grids("canvas", SUITE, some, tmp_path)   # of style nothing was drawn
    assert path == tmp_path / "pictures" / "canvas-object.png"
    drawn = Image.open(path).convert("RGB")
    assert [drawn.getpixel((140, 16 + 40 * row + 20)) for row in range(3)] == [(0, 0, 0), (255, 255, 255), (128, 128, 128)]
