"""The overview figure: forgetting against utility with the retrained models' region, enlarged where small; and costs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lethe.core.evidence import FAILED
from lethe.core.words import number, spaced
from lethe.report.colours import BAND, RETRAINED, Look
from lethe.report.figure import Drawing, arms, axis, case_looks, finding, is_inside, numbers, short, titled, value_of
from lethe.report.pictures import AUDIT, FAR, alone
from lethe.report.view import Case, Column, Line
from lethe.report.words import listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Limits = tuple[tuple[float, float], tuple[float, float]]   # of x and of y

UNNAMED = (AUDIT, FAR)   # retention on prompts that no method saw


def tradeoff(case: Case) -> Drawing | None:
    """Forgetting against utility, one mark per line, and a curve through the settings of one method; the panel of costs serves as
    the legend. None without both metrics. Of an image generator: what was erased against what was kept though it was never named.
    """
    x, y = case.first("forgetting"), case.columns.get(UNNAMED) or case.first("utility")
    if x is None or y is None:
        return None
    shown = [line for line in case.lines if value_of(line, x) is not None and value_of(line, y) is not None]
    if not shown:
        return None
    from matplotlib.figure import Figure

    look, zoom = case_looks(case), _zoom(shown, x, y) if _compared(x, y) else None
    figure = Figure(figsize=(12 if zoom else 9.5, max(4.2, 1.6 + 0.34 * len(shown))), layout="constrained")
    panels = figure.subplots(1, 3 if zoom else 2, width_ratios=(4, 4, 3) if zoom else (3, 2))
    for axes in panels[:-1]:
        _points(axes, shown, x, y, look)
    panels[0].set_ylabel(axis(y))
    if zoom:
        panels[1].set_xlim(*zoom[0])
        panels[1].set_ylim(*zoom[1])
        panels[0].set_title("all", fontsize=10, fontweight="normal")
        panels[1].set_title("enlarged: around the retrained models", fontsize=10, fontweight="normal")
    for axes in panels[:-1]:
        _region(axes, x, y)
    _costs(panels[-1], list(reversed(shown)), look)
    title = _title(case, shown, x, y)
    titled(figure, title, 120 if zoom else 95)
    rows = [numbers(line, column) for line in shown for column in (x, y)]
    return Drawing("tradeoff", title, _caption(case, x, y), figure, rows)


def _title(case: Case, shown: Sequence[Line], x: Column, y: Column) -> str:
    if alone(case):
        return f"What each method erases, and what it keeps{' of what was never named to it' if y.key == UNNAMED else ''}"
    if not _compared(x, y):
        return f"What each method forgets and keeps ({'too few' if case.references else 'no'} retrained models to compare with)"
    if x.powered is False:
        return finding(case, x)
    near = [line.label for line in case.methods if line in shown and is_inside(line, x) and is_inside(line, y)]
    if not near:
        return "No method lies where retrained models lie"
    return (f"By {spaced(x.metric)} and {spaced(y.metric)}, {listed(near)} {'lie' if len(near) > 1 else 'lies'} where "
            "retrained models lie")


def _compared(x: Column, y: Column) -> bool:
    """Whether both metrics have retrained models as their yardstick."""
    return x.retrained and y.retrained


def _caption(case: Case, x: Column, y: Column) -> str:
    count, failed = x.yardstick.n if x.yardstick else 0, case.named(FAILED)
    region = (f"Grey: the bands that decide, to the edge where they have no end; one more retrained model lies in the bands of "
              f"all its tests with a probability of 95 %. Small diamonds: the {count} retrained models. "
              if _compared(x, y) else "")
    costs = f"time of each method{' beside one retraining' if any(line.ratio for line in case.lines) else ''}"
    return (f"{region}Bars: 95 % intervals, or the range over seeds. Last panel: {costs}."
            f"{f' No model to draw: {listed(failed)}.' * bool(failed)}")


def _points(axes: Axes, lines: Sequence[Line], x: Column, y: Column, look: Mapping[str, Look]) -> None:
    """One panel: the retrained models' region, then every line with its intervals."""
    from matplotlib.ticker import MaxNLocator

    if _compared(x, y):
        axes.update_datalim(list(itertools.product(_ends(x), _ends(y))))
    for line in reversed(lines):
        a, b, style = line.cells[x.key], line.cells[y.key], look[line.label]
        assert a.value is not None and b.value is not None
        axes.errorbar([a.value], [b.value], xerr=arms(a), yerr=arms(b), marker=style.marker, color=style.colour,
                      markersize=9, markeredgecolor="white", markeredgewidth=0.8, elinewidth=1, linestyle="none", zorder=3)
    for method in dict.fromkeys(line.members[0].method for line in lines if line.role == "method"):
        settings = sorted((line.cells[x.key].value or 0.0, line.cells[y.key].value or 0.0) for line in lines
                          if line.members[0].method == method)
        if len(settings) > 1:
            first = next(line for line in lines if line.members[0].method == method)
            axes.plot(*zip(*settings, strict=True), color=look[first.label].colour, linewidth=1, alpha=0.6, zorder=2)
    axes.set_xlabel(axis(x))
    axes.margins(0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _region(axes: Axes, x: Column, y: Column) -> None:
    """The retrained models' prediction intervals as a rectangle, and the models themselves."""
    from matplotlib.patches import Rectangle

    if not _compared(x, y) or not x.yardstick or not y.yardstick:
        return
    (left, right), (bottom, top) = _within(x, axes.get_xlim()), _within(y, axes.get_ylim())
    axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, facecolor=BAND, edgecolor="#888888", zorder=0,
                             linewidth=0.8))
    axes.autoscale(False)
    pairs = [(a, b) for a, b in zip(x.yardstick.values, y.yardstick.values, strict=False) if a is not None and b is not None]
    if pairs and len(x.yardstick.values) == len(y.yardstick.values):
        axes.plot([a for a, _ in pairs], [b for _, b in pairs], "D", color=RETRAINED, markersize=3.5, alpha=0.5, zorder=2)


def _ends(column: Column) -> list[float]:
    """The ends of a band that has any."""
    return [end for end in column.band if end is not None]


def _within(column: Column, limits: tuple[float, float]) -> tuple[float, float]:
    """The band as drawn: to the edge of the axes where it has no end."""
    low, high = column.band
    return limits[0] if low is None else low, limits[1] if high is None else high


def _zoom(lines: Sequence[Line], x: Column, y: Column) -> Limits | None:
    """Limits three region widths wide, where the region would be small among all points."""
    limits, small = [], False
    for column in (x, y):
        if not column.yardstick or not _ends(column):
            return None
        near = [*_ends(column), *(value for value in column.yardstick.values if value is not None)]
        low, high = min(near), max(near)
        values = [low, high, *(line.cells[column.key].value or 0.0 for line in lines)]
        margin = max(high - low, 0.05 * (max(values) - min(values)), 1e-9)
        small = small or 6 * (high - low) < max(values) - min(values)
        floor, ceiling = column.bounds
        limits.append((low - margin if floor is None else max(low - margin, floor - margin / 4),
                       high + margin if ceiling is None else min(high + margin, ceiling + margin / 4)))
    return (limits[0], limits[1]) if small else None


def _costs(axes: Axes, lines: Sequence[Line], look: Mapping[str, Look]) -> None:
    """Time beside one retraining, else in seconds; the original, which costs nothing, stands at the left edge."""
    beside = any(line.ratio for line in lines)
    for place, line in enumerate(lines):
        style: dict[str, Any] = {"marker": look[line.label].marker, "color": look[line.label].colour, "markersize": 8,
                                 "linestyle": "none"}
        took = line.ratio if beside else line.seconds
        if took:
            axes.plot(took, place, **style)
            axes.annotate(f"{number(took)}{'×' if beside else ' s'}", (took, place), (8, 0), textcoords="offset points",
                          va="center", fontsize=9, color="#444444")
        else:
            axes.plot(0.03, place, transform=axes.get_yaxis_transform(), **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}{'×' if beside else ''}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    if beside:
        axes.axvline(1, color=RETRAINED, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(lines)), [short(line.label) for line in lines])
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.margins(x=0.3)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"time {'beside one retraining' if beside else 'in seconds'}\n(lower is better)")
