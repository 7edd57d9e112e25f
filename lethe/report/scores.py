"""The figure behind an attack: scores of single records, forgotten and unseen, one panel per model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lethe.core.words import number, spaced
from lethe.report.figure import Drawing, short
from lethe.report.sketch import DASHED, DOTTED, Part, Scale, Sketch, Stroke, Word, bottom, headed, spanned
from lethe.report.view import Case, Column, Line
from lethe.results.schema import Histogram

STYLES: dict[str, tuple[str, Sequence[float], float]] = {   # colour, dash, width
    "forget": ("#D55E00", (), 2.0), "holdout": ("#0072B2", DASHED, 1.6), "retrained": ("#000000", DOTTED, 1.4)}
PANEL, TALL, LEFT, MOST = 230.0, 84.0, 50.0, 3   # points: a panel with its margin, its height; room for ticks; panels in a row
KEY = 150.0                                      # points: one entry of the legend


def scores(case: Case, column: Column) -> Drawing | None:
    """Per-record scores of forgotten and unseen records, one panel per line (its first seed); None where there are none."""
    drawn = [(line, histogram) for line in case.lines if column.key in line.cells
             for item in line.cells[column.key].items[:1] if (histogram := item.histogram) is not None]
    if not drawn:
        return None
    wide = min(MOST, len(drawn))
    title = f"Scores behind {spaced(column.metric)}: where the lines part, forgotten records are detectable"
    parts, tall = headed(title, 30 * wide)
    steps = [_shares(histogram) for _, histogram in drawn]
    edges = [one for _, histogram in drawn for one in _edges(histogram)]
    tallest = max((share for found in steps for shares in found.values() for share in shares), default=1.0)
    top, step = 14 + tall, TALL + 40
    for place, ((line, histogram), found) in enumerate(zip(drawn, steps, strict=True)):
        left, roof = LEFT + PANEL * (place % wide), top + 14 + step * (place // wide)
        scale = spanned(edges, left, left + PANEL - 24)
        parts += _panel(scale, Scale(0, tallest * 1.05 or 1, roof + TALL, roof), line, _edges(histogram), found,
                        ticks=place % wide == 0, titled=place + wide >= len(drawn))
    floor = top + step * -(-len(drawn) // wide) + 22
    for place, (key, told) in enumerate(_counted(drawn).items()):
        parts += _key(key, told, LEFT + KEY * place, floor)
    rows = [row for (line, histogram), found in zip(drawn, steps, strict=True) for row in _rows(line, histogram, found)]
    return Drawing(f"{column.audit}-{column.metric}-scores", title, "One panel per model; shares of records per bin.",
                   Sketch(max(LEFT + PANEL * wide, LEFT + KEY * len(STYLES)), floor + 14, parts), rows)


def _panel(scale: Scale, tall: Scale, line: Line, edges: Sequence[float], found: dict[str, list[float]], *, ticks: bool,
           titled: bool) -> list[Part]:
    """One model: its name, the lines of its groups of records, and the axes."""
    parts: list[Part] = [Word(scale.start, tall.end - 5, short(line.label), 10)]
    for value, told in tall.ticks(3) if ticks else ():
        parts.append(Word(scale.start - 6, tall(value) + 4, told, 10, "#444444", "end"))
    for key, shares in found.items():
        colour, dash, width = STYLES[key]
        corners = [(scale(x), tall(share)) for share, a, b in zip(shares, edges, edges[1:], strict=False) for x in (a, b)]
        parts.append(Stroke([(corners[0][0], tall.start), *corners, (corners[-1][0], tall.start)], colour, width, dash))
    return [*parts, *bottom(scale, tall.start, "score of a record" if titled else "", most=4)]


def _key(key: str, told: str, x: float, y: float) -> list[Part]:
    """An entry of the legend."""
    colour, dash, width = STYLES[key]
    return [Stroke([(x, y), (x + 22, y)], colour, width, dash), Word(x + 28, y + 4, told, 10)]


def _edges(histogram: Histogram) -> list[float]:
    return [edge for edge in histogram.edges if edge is not None]


def _counts(histogram: Histogram) -> dict[str, list[int]]:
    """The groups of records that there are, in the order of STYLES."""
    counted = {"forget": histogram.forget, "holdout": histogram.holdout, "retrained": histogram.retrained}
    return {key: list(counted[key]) for key in STYLES if sum(counted[key])}


def _shares(histogram: Histogram) -> dict[str, list[float]]:
    return {key: [count / sum(counts) for count in counts] for key, counts in _counts(histogram).items()}


def _counted(drawn: Sequence[tuple[Line, Histogram]]) -> dict[str, str]:
    """The legend: every group of records with its size in the first panel that has it."""
    told: dict[str, str] = {}
    for _, histogram in drawn:
        for key, counts in _counts(histogram).items():
            told.setdefault(key, f"{key} (n = {number(sum(counts))})")
    return told


def _rows(line: Line, histogram: Histogram, found: dict[str, list[float]]) -> list[dict[str, Any]]:
    edges, counts = _edges(histogram), _counts(histogram)
    return [{"row": line.label, "which": key, "from": a, "to": b, "count": count}
            for key in found for a, b, count in zip(edges, edges[1:], counts[key], strict=False)]
