"""Rendered shapes: what is drawn, how often, and that it repeats."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lethe.data.shapes import COLOURS, FIGURES, SHAPES, caption, captions, render, shapes
from lethe.errors import OutOfRange, UnknownName


def test_a_figure_is_painted_where_it_was_shifted() -> None:
    image = render("yellow", "cross", down=0, right=2)
    marks = sum(row.count("#") for row in FIGURES["cross"])
    assert int((image[0] == 1).sum()) == int((image[1] == 1).sum()) == marks
    assert bool((image[2] == -1).all())                                  # yellow has no blue
    assert image[0, 0, 2] == 1 and bool((image[0, :, :2] == -1).all())   # the upper left arm, and nothing left of it


def test_every_combination_comes_equally_often_and_the_seed_decides() -> None:
    split = shapes(64, seed=3)
    assert set(Counter(split.meta["caption"]).values()) == {4}
    assert len(captions()) == len(COLOURS) * len(SHAPES) == 16
    assert split.fingerprint == shapes(64, seed=3).fingerprint != shapes(64, seed=4).fingerprint
    for i in (0, 17, 63):
        assert split.meta["caption"][i] == caption(split.meta["colour"][i], split.meta["shape"][i])
        possible = [render(split.meta["colour"][i], split.meta["shape"][i], d, r) for d in range(3) for r in range(3)]
        assert any(torch.equal(split.columns["image"][i], image) for image in possible)


def test_wrong_names_and_shifts_are_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean disk"):
        render("red", "disc")
    with pytest.raises(OutOfRange, match="Use 0 to 2"):
        render("red", "disk", down=3)
