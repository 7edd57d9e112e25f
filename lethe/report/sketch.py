"""Drawings made of strokes, boxes, words and marks: SVG is written straight down, PNG by matplotlib.

A page has a figure for every metric. By matplotlib's axes each takes 45 ms, and so the page of a comparison several seconds; this
way it takes one (CPU). Lengths are points (1/72 inch) from the top left.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lethe.report.words import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Point = tuple[float, float]
SIDES = {"^": (3, 90), "v": (3, 270), "<": (3, 180), ">": (3, 0), "s": (4, 45), "D": (4, 0), "p": (5, 90), "h": (6, 90),
         "8": (8, 22.5)}      # marker -> number of corners, where the first lies in degrees
CROSSES = {"P": 0, "X": 45}
ARM = ((1.0, -0.34), (1.0, 0.34), (0.34, 0.34))   # the corners of a cross's arm, in its radius
EDGE = "#ffffff"
FONT = "font-family: 'DejaVu Sans', Arial, Helvetica, sans-serif"
DASHED, DOTTED = (4.0, 2.5), (1.0, 1.6)
STEPS = (1, 2, 2.5, 5, 10)


def escaped(text: str) -> str:
    """Text as SVG has it, without control characters."""
    return re.sub(r"[&<>\"']", lambda found: f"&#{ord(found[0])};", printable(text))


@dataclass(frozen=True)
class Stroke:
    """A line through points. dash: lengths of line and gap; none: a line without gaps."""

    points: Sequence[Point]
    colour: str
    width: float
    dash: Sequence[float] = ()

    def svg(self) -> str:
        through = " ".join(f"{x:.2f},{y:.2f}" for x, y in self.points)
        gaps = f"; stroke-dasharray: {' '.join(map(str, self.dash))}" if self.dash else ""
        return f'<polyline points="{through}" style="fill: none; stroke: {self.colour}; stroke-width: {self.width:g}{gaps}"/>'


@dataclass(frozen=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    colour: str

    def svg(self) -> str:
        return (f'<rect x="{self.x:.2f}" y="{self.y:.2f}" width="{self.width:.2f}" height="{self.height:.2f}" '
                f'style="fill: {self.colour}"/>')


@dataclass(frozen=True)
class Word:
    """A line of text, its baseline at y."""

    x: float
    y: float
    text: str
    size: float = 11.0
    colour: str = "#222222"
    anchor: Literal["start", "middle", "end"] = "start"
    bold: bool = False

    def svg(self) -> str:
        weight = "; font-weight: bold" if self.bold else ""
        return (f'<text x="{self.x:.2f}" y="{self.y:.2f}" text-anchor="{self.anchor}" '
                f'style="fill: {self.colour}; font-size: {self.size:g}px; {FONT}{weight}">{escaped(self.text)}</text>')


@dataclass(frozen=True)
class Mark:
    """A marker, as matplotlib names it: o, X, P or one of SIDES. size: the diameter of the circle that it is or lies in."""

    x: float
    y: float
    marker: str
    colour: str
    size: float
    opacity: float = 1.0

    def svg(self) -> str:
        style = f'style="fill: {self.colour}; stroke: {EDGE}; stroke-width: 0.8; fill-opacity: {self.opacity:g}"'
        if not (corners := self.corners()):
            return f'<circle cx="{self.x:.2f}" cy="{self.y:.2f}" r="{self.size / 2:.2f}" {style}/>'
        return f'<polygon points="{" ".join(f"{x:.2f},{y:.2f}" for x, y in corners)}" {style}/>'

    def corners(self) -> list[Point]:
        """Of its outline; none: it is a circle."""
        if self.marker in CROSSES:
            return [self._at(math.hypot(*corner), math.degrees(math.atan2(corner[1], corner[0])) + CROSSES[self.marker] + 90 * k)
                    for k in range(4) for corner in ARM]
        count, first = SIDES.get(self.marker, (0, 0))
        return [self._at(1.0, first + 360 * k / count) for k in range(count)]

    def _at(self, radius: float, degrees: float) -> Point:
        turned = math.radians(degrees)
        return self.x + radius * self.size / 2 * math.cos(turned), self.y - radius * self.size / 2 * math.sin(turned)


Part = Stroke | Box | Word | Mark


@dataclass(frozen=True)
class Sketch:
    """A drawing: its parts, from the back to the front."""

    width: float
    height: float
    parts: Sequence[Part]

    def svg(self) -> str:
        """The drawing as an SVG element."""
        inside = "\n".join(part.svg() for part in self.parts)
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:.1f} {self.height:.1f}">\n{inside}\n</svg>'

    def figure(self) -> Figure:
        """The drawing as a figure of matplotlib."""
        from matplotlib.colors import to_rgba
        from matplotlib.figure import Figure
        from matplotlib.patches import Circle, Polygon, Rectangle

        figure = Figure(figsize=(self.width / 72, self.height / 72))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, self.width), ylim=(self.height, 0))
        axes.set_axis_off()
        for z, part in enumerate(self.parts):
            if isinstance(part, Stroke):
                dash = (0, tuple(one / part.width for one in part.dash)) if part.dash else "-"
                axes.plot(*zip(*part.points, strict=True), color=part.colour, linewidth=part.width, linestyle=dash, zorder=z)
            elif isinstance(part, Box):
                axes.add_patch(Rectangle((part.x, part.y), part.width, part.height, color=part.colour, linewidth=0, zorder=z))
            elif isinstance(part, Word):
                axes.text(part.x, part.y, printable(part.text), fontsize=part.size, color=part.colour, zorder=z,
                          ha={"start": "left", "middle": "center", "end": "right"}[part.anchor],
                          fontweight="bold" if part.bold else "normal")
            else:
                corners = part.corners()
                shape = Polygon(corners) if corners else Circle((part.x, part.y), part.size / 2)
                shape.set(facecolor=to_rgba(part.colour, part.opacity), edgecolor=EDGE, linewidth=0.8, zorder=z)
                axes.add_patch(shape)
        return figure


@dataclass(frozen=True)
class Scale:
    """Values along a length. low, high: the values at its ends, `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 7) -> list[tuple[float, str]]:
        """Round values between the ends, at most this many, each with the digits it needs."""
        rough = (self.high - self.low) / most
        power = math.floor(math.log10(rough))
        lead = next(one for one in STEPS if one * 10.0**power >= rough * (1 - 1e-9))
        step, digits = lead * 10.0**power, max(0, (lead == 2.5) - power - (lead == 10))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        plain = 1e-4 <= max(abs(first), abs(last), 1) * step < 1e6
        return [(k * step, (f"{k * step:.{digits}f}" if plain else f"{k * step:g}").replace("-", "−"))
                for k in range(first, last + 1)]


def spanned(values: Iterable[float], start: float, end: float) -> Scale:
    """The scale on which all these values lie, with a twentieth of room beside them."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    room = 0.05 * (high - low) or 0.05 * abs(low) or 0.05
    return Scale(low - room, high + room, start, end)


def headed(title: str, letters: int) -> tuple[list[Part], float]:
    """The title at the top left in lines of so many letters, cut after three, and the height that they take."""
    lines = textwrap.wrap(printable(title), letters)[:3]
    return [Word(5, 15 + 15 * k, line, 12, bold=True) for k, line in enumerate(lines)], 15.0 * len(lines)


def bottom(scale: Scale, y: float, title: str, most: int = 7) -> list[Part]:
    """An axis below a drawing: its line at y, ticks with their values, and what they mean."""
    parts: list[Part] = [Stroke([(scale.start, y), (scale.end, y)], "#888888", 0.8)]
    for value, told in scale.ticks(most):
        parts += [Stroke([(scale(value), y), (scale(value), y + 3.5)], "#888888", 0.8),
                  Word(scale(value), y + 15, told, colour="#444444", anchor="middle")]
    return [*parts, Word((scale.start + scale.end) / 2, y + 31, title, anchor="middle")]
