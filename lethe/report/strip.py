"""The figure of one metric: every line as a mark with its interval, beside the retrained models' values and band."""

from __future__ import annotations

from collections.abc import Sequence

from lethe.core.words import number
from lethe.report.colours import BAND, ORIGINAL, RETRAINED, Look
from lethe.report.figure import Drawing, axis, case_looks, finding, letters, numbers, short, value_of
from lethe.report.pictures import alone
from lethe.report.sketch import DASHED, Box, Mark, Part, Scale, Sketch, Stroke, Word, bottom, headed, spanned
from lethe.report.view import Case, Cell, Column, Line
from lethe.report.words import BANDS, MANY, sign

WIDE, ROW, LETTER = 533.0, 23.0, 6.7   # points: of the drawing, from row to row, of a letter
BELOW, BESIDE = 44.0, 64.0             # room for the axis, and for the verdicts


def strip(case: Case, column: Column) -> Drawing | None:
    """One metric of every line that has it; None when none has."""
    shown = [line for line in case.lines if value_of(line, column) is not None]
    if not shown:
        return None
    look, yard, title = case_looks(case), column.yardstick, finding(case, column)
    labels = ([f"{yard.n} {MANY[yard.kind]}"] if yard else []) + [short(line.label) for line in shown]
    heading, tall = headed(title, 68)
    top = 10 + tall
    floor = top + ROW * len(labels) + 4
    scale = spanned(_reach(shown, column), 22 + LETTER * max(map(letters, labels)), WIDE - BESIDE)
    parts = [*heading, *_band(scale, column, top, floor)]
    for place, label in enumerate(labels):
        y = top + ROW * (place + 0.5)
        parts += [Stroke([(scale.start, y), (scale.end, y)], "#eeeeee", 0.8), Word(scale.start - 8, y + 4, label, anchor="end")]
    if column.original is not None:
        parts.append(Stroke([(scale(column.original), top), (scale(column.original), floor)], ORIGINAL, 1, DASHED))
    if yard:
        parts += [Mark(scale(value), top + ROW / 2, "D", RETRAINED, 6, 0.6) for value in yard.values if value is not None]
    for place, line in enumerate(shown, start=len(labels) - len(shown)):
        parts += _line(scale, line.cells[column.key], top + ROW * (place + 0.5), look[line.label])
    parts += bottom(scale, floor, axis(column) + _size(shown, column))
    compared = f"{BANDS[yard.kind]} " if yard else "" if alone(case) else "No retrained models to compare with. "
    return Drawing(f"{column.audit}-{column.metric}", title, f"{compared}Dashed: the untouched model.",
                   Sketch(WIDE, floor + BELOW, parts), [numbers(line, column) for line in shown])


def _reach(shown: Sequence[Line], column: Column) -> list[float]:
    """What must be in view: values with their intervals, those of retrained models, the untouched model, the ends of the band."""
    cells = [line.cells[column.key] for line in shown]
    ends = [end for cell in cells for end in (cell.value, cell.low, cell.high)]
    return [one for one in (*ends, *(column.yardstick.values if column.yardstick else ()), *column.band, column.original)
            if one is not None]


def _band(scale: Scale, column: Column, top: float, floor: float) -> list[Part]:
    """The band that decides: where it has no end it goes to the edge of the drawing."""
    low, high = column.band
    if low is None and high is None:
        return []
    left, right = scale.start if low is None else scale(low), scale.end if high is None else scale(high)
    return [Box(left, top, right - left, floor - top, BAND)]


def _line(scale: Scale, cell: Cell, y: float, look: Look) -> list[Part]:
    """A value with its interval, and what it was found to be."""
    assert cell.value is not None
    arms = [] if cell.low is None or cell.high is None else [
        Stroke([(scale(min(cell.low, cell.value)), y), (scale(max(cell.high, cell.value)), y)], look.colour, 1.6)]
    return [*arms, Mark(scale(cell.value), y, look.marker, look.colour, 9),
            Word(scale.end + 6, y + 4, sign(cell.verdict, cell.side), 9)]


def _size(lines: Sequence[Line], column: Column) -> str:
    size = max(line.cells[column.key].n or 0 for line in lines)
    return f", n = {number(size)}" if size else ""
