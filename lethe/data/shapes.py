"""Rendered coloured shapes with captions "a {colour} {shape}": a text-to-image world whose every claim can be checked.

An image is [3, side, side] in [−1, 1]: a 6×6 figure in one of four colours on black, shifted by 0 to side − 6 whole
pixels in each direction. With side 8 there are 4 · 4 · 9 = 144 different images, so a small model can draw them well,
and equal images are expected in different splits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.errors import OutOfRange, unknown_name

FIGURES = {
    "disk": ("..##..", ".####.", "######", "######", ".####.", "..##.."),
    "square": ("######", "#....#", "#....#", "#....#", "#....#", "######"),
    "cross": ("#....#", ".#..#.", "..##..", "..##..", ".#..#.", "#....#"),
    "triangle": ("#.....", "##....", "###...", "####..", "#####.", "######"),
}
PAINT = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "yellow": (1, 1, -1)}
SHAPES, COLOURS = tuple(FIGURES), tuple(PAINT)
SIZE = 6


def caption(colour: str, shape: str) -> str:
    """The caption of an image."""
    return f"a {colour} {shape}"


def captions(colours: tuple[str, ...] = COLOURS, shapes: tuple[str, ...] = SHAPES) -> list[str]:
    """All captions, shape by shape."""
    return [caption(colour, shape) for shape in shapes for colour in colours]


def render(colour: str, shape: str, down: int = 1, right: int = 1, side: int = 8) -> Tensor:
    """One image.  -> [3, side, side] in [−1, 1]"""
    if shape not in FIGURES:
        raise unknown_name("shape", shape, SHAPES)
    if colour not in PAINT:
        raise unknown_name("colour", colour, COLOURS)
    if not (0 <= down <= side - SIZE and 0 <= right <= side - SIZE):
        raise OutOfRange(f"a shift of ({down}, {right}) puts part of the figure outside {side}×{side}. Use 0 to "
                         f"{side - SIZE}.")
    mask = torch.tensor([[mark == "#" for mark in row] for row in FIGURES[shape]])
    image = torch.full((3, side, side), -1.0)
    window = image[:, down : down + SIZE, right : right + SIZE]
    window[:] = torch.where(mask, torch.tensor(PAINT[colour], dtype=torch.float32).view(3, 1, 1), window)
    return image


def shapes(n: int, seed: int = 0, name: str = "train", side: int = 8, noise: float = 0.0) -> Split:
    """n images, every combination of colour and shape equally often (as far as n allows), shifts and order at random.

    noise  standard deviation of Gaussian pixel noise, clamped to [−1, 1]; makes examples distinguishable
    Columns: image [n, 3, side, side]. Meta: caption, colour, shape.
    """
    rng = generator(seed, "shapes", name)
    order = torch.randperm(n, generator=rng).tolist()
    shift = torch.randint(0, side - SIZE + 1, (n, 2), generator=rng).tolist()
    pairs = [(colour, shape) for shape in SHAPES for colour in COLOURS]
    chosen = [pairs[i % len(pairs)] for i in order]
    placed = zip(chosen, shift, strict=True)
    images = torch.stack([render(colour, shape, down, right, side) for (colour, shape), (down, right) in placed])
    if noise:
        images = (images + noise * torch.randn(images.shape, generator=rng)).clamp(-1, 1)
    meta = {
        "caption": [caption(*pair) for pair in chosen],
        "colour": [colour for colour, _ in chosen],
        "shape": [shape for _, shape in chosen],
    }
    return Split({"image": images}, name, np.array([f"{name}:{i}" for i in range(n)]), meta)
