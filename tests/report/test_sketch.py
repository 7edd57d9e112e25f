"""Drawings without axes: round ticks, where values come to lie, and the same shapes in SVG and in PNG."""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from lethe.report.colours import MARKERS
from lethe.report.figure import png, svg
from lethe.report.sketch import Box, Mark, Scale, Sketch, Stroke, Word, spanned


@pytest.mark.parametrize(("low", "high", "told"), [
    (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]), (-0.05, 1.05, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    (-30, 12, ["−30", "−20", "−10", "0", "10"]), (0.92, 1.001, ["0.92", "0.94", "0.96", "0.98", "1.00"]),
    (0, 0.15, ["0.000", "0.025", "0.050", "0.075", "0.100", "0.125", "0.150"]), (0, 9, ["0", "2", "4", "6", "8"]),
    (0, 3e7, ["0", "5e+06", "1e+07", "1.5e+07", "2e+07", "2.5e+07", "3e+07"]),
])
def test_ticks_are_round_and_differ(low: float, high: float, told: list[str]) -> None:
    found = Scale(low, high, 0, 100).ticks()
    assert [text for _, text in found] == told
    assert all(low - 1e-9 <= value <= high + 1e-9 for value, _ in found)


def test_all_values_are_in_view_with_room_beside_them() -> None:
    scale = spanned([2.0, 4.0, math.nan, math.inf], 10, 110)
    assert scale(2.0) == pytest.approx(10 + 100 / 22) and scale(4.0) == pytest.approx(110 - 100 / 22)
    for alike in ([3.0, 3.0], [0.0], []):
        scale = spanned(alike, 0, 1)
        assert all(0 < scale(value) < 1 for value in alike) and scale.ticks()


def test_markers_have_the_corners_of_their_names() -> None:
    corners = {marker: Mark(0, 0, marker, "#000000", 2).corners() for marker in (*MARKERS, "X", "D")}
    assert {marker: len(found) for marker, found in corners.items()} == {
        "o": 0, "s": 4, "^": 3, "v": 3, "P": 12, "<": 3, ">": 3, "p": 5, "h": 6, "8": 8, "X": 12, "D": 4}
    assert corners["^"][0] == pytest.approx((0, -1)) and corners["v"][0] == pytest.approx((0, 1))   # y points down
    assert corners[">"][0] == pytest.approx((1, 0)) and corners["D"][1] == pytest.approx((0, -1))
    for found in corners.values():
        assert all(math.hypot(x, y) <= 1.06 for x, y in found)


def test_svg_and_png_show_the_same() -> None:
    sketch = Sketch(100, 50, [Box(10, 10, 20, 20, "#00ff00"), Mark(70, 20, "s", "#ff0000", 20), Mark(70, 40, "o", "#ff0000", 8),
                              Stroke([(0, 45), (60, 45)], "#0000ff", 4, (2, 2)), Word(5, 8, 'a <b> & "c"', bold=True)])
    root = ET.fromstring(svg(sketch, 'what "it" <shows>'))
    assert root.attrib["aria-label"] == 'what "it" <shows>' and root.attrib["viewBox"] == "0 0 100.0 50.0"
    assert [one.tag.split("}")[1] for one in root] == ["rect", "polygon", "circle", "polyline", "text"]
    assert root[4].text == 'a <b> & "c"'
    picture = Image.open(io.BytesIO(png(sketch, dpi=72))).convert("RGB")
    assert picture.size == (100, 50)
    assert picture.getpixel((20, 25)) == (0, 255, 0) and picture.getpixel((70, 20)) == (255, 0, 0)
    assert picture.getpixel((70, 40)) == (255, 0, 0) and picture.getpixel((95, 5)) == (255, 255, 255)
