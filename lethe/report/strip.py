"""The figure of one metric: every line as a mark with its interval, beside the retrained models' values and band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lethe.core.words import number
from lethe.report.colours import BAND, ORIGINAL, RETRAINED
from lethe.report.figure import Drawing, axis, bar, case_looks, finding, letters, numbers, short, titled, value_of
from lethe.report.pictures import alone
from lethe.report.view import Case, Column, Line
from lethe.report.words import BANDS, MANY, sign

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 7.4   # inches


def strip(case: Case, column: Column) -> Drawing | None:
    """One metric of every line that has it; None when none has."""
    shown = [line for line in case.lines if value_of(line, column) is not None]
    if not shown:
        return None
    from matplotlib.figure import Figure

    look, lines, yard = case_looks(case), list(reversed(shown)), column.yardstick
    labels = [short(line.label) for line in lines] + ([f"{yard.n} {MANY[yard.kind]}"] if yard else [])
    tall = 1.6 + 0.32 * len(lines)
    figure = Figure(figsize=(WIDE, tall))
    # margins by hand, not by the constrained layout: a page of 22 figures takes 3.1 instead of 4.5 s (CPU, n = 2)
    left = (0.3 + 0.093 * max(letters(label) for label in labels)) / WIDE
    axes = figure.add_axes((left, 0.62 / tall, 1 - left - 0.95 / WIDE, 1 - 1.02 / tall))
    _yardstick(axes, column, len(lines))
    for place, line in enumerate(lines):
        cell = line.cells[column.key]
        bar(axes, cell, place, look[line.label])
        axes.annotate(sign(cell.verdict, cell.side), (1.01, place), xycoords=axes.get_yaxis_transform(), va="center",
                      fontsize=9, color="#222222")
    _frame(axes, labels, len(lines) + (0.6 if yard else -0.4))
    axes.set_xlabel(axis(column) + _size(lines, column))
    title = finding(case, column)
    titled(figure, title, 68)
    _band(axes, column)
    compared = f"{BANDS[yard.kind]} " if yard else "" if alone(case) else "No retrained models to compare with. "
    caption = f"{compared}Dashed: the untouched model."
    return Drawing(f"{column.audit}-{column.metric}", title, caption, figure, [numbers(line, column) for line in shown])


def _yardstick(axes: Axes, column: Column, place: int) -> None:
    """The retrained models' values, and the untouched model as a dashed line; the ends of the band are made to be in view."""
    if column.yardstick:
        axes.update_datalim([(end, 0.0) for end in column.band if end is not None])
        values = [value for value in column.yardstick.values if value is not None]
        axes.plot(values, [place] * len(values), "D", color=RETRAINED, markersize=4, alpha=0.6)
    if column.original is not None:
        axes.axvline(column.original, color=ORIGINAL, linewidth=1, linestyle="--", zorder=1)


def _band(axes: Axes, column: Column) -> None:
    """The band that decides, drawn last: where it has no end it goes to the edge of the drawing."""
    (low, high), (left, right) = column.band, axes.get_xlim()
    if low is not None or high is not None:
        axes.axvspan(left if low is None else low, right if high is None else high, color=BAND, zorder=0, linewidth=0)
        axes.set_xlim(left, right)


def _frame(axes: Axes, labels: Sequence[str], top: float) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(-0.6, top)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="#eeeeee", zorder=0)
    axes.set_axisbelow(True)


def _size(lines: Sequence[Line], column: Column) -> str:
    size = max(line.cells[column.key].n or 0 for line in lines)
    return f", n = {number(size)}" if size else ""
