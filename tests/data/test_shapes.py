"""Rendered shapes: what is drawn, how often, and that it repeats."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lethe.data.shapes import COLOURS, FIGURES, LARGE, SHAPES, SMALL, caption, captions, render, shapes
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


def test_the_larger_world_has_figures_of_twice_the_size() -> None:
    split = shapes(72, seed=1, world=LARGE)
    assert set(Counter(split.meta["caption"]).values()) == {2} and len(LARGE.colours) * len(LARGE.shapes) == 36
    assert split.columns["image"].shape == (72, 3, 16, 16)
    figures = [render("white", shape, 2, 3, LARGE.side, LARGE.scale) for shape in LARGE.shapes]
    assert len({image.numpy().tobytes() for image in figures}) == 6
    for shape, image in zip(LARGE.shapes, figures, strict=True):
        assert torch.equal(image[:, 2:14, 3:15][:, ::2, ::2], render("white", shape, 0, 0, 6))
        assert int((image == 1).sum()) == 4 * 3 * sum(row.count("#") for row in FIGURES[shape])
    assert set(SMALL.shapes) < set(LARGE.shapes) and set(SMALL.colours) < set(LARGE.colours)   # the small one is as it was
    with pytest.raises(OutOfRange, match="Use 0 to 4"):
        render("red", "disk", 5, 0, 16, 2)
