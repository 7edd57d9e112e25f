"""The overview figure: forgetting against utility with the retrained models' region, enlarged where small; and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lethe.core.evidence import FAILED
from lethe.report.colours import BAND, RETRAINED, Look
from lethe.report.figure import Drawing, arms, axis, case_looks, finding, is_inside, numbers, short, titled, value_of
from lethe.report.view import Case, Column, Line
from lethe.report.words import listed, number, spaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Limits = tuple[tuple[float, float], tuple[float, float]]   # of x and of y


def tradeoff(case: Case) -> Drawing | None:
    """Forgetting against utility, one mark per line; the panel of costs serves as the legend. None without both metrics."""
    x, y = case.first("forgetting"), case.first("utility")
    if x is None or y is None:
        return None
    shown = [line for line in case.lines if value_of(line, x) is not None and value_of(line, y) is not None]
    if not shown:
        return None
    from matplotlib.figure import Figure

    look, zoom = case_looks(case), _zoom(shown, x, y)
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
    _costs(panels[-1], list(reversed(shown)), look)
    title = _title(case, shown, x, y)
    titled(figure, title, 120 if zoom else 95)
    return Drawing("tradeoff", title, _caption(case, x), figure, [numbers(line, column) for line in shown for column in (x, y)])


def _title(case: Case, shown: Sequence[Line], x: Column, y: Column) -> str:
    if x.yardstick is None or y.yardstick is None:
        return "What each method forgets and keeps (no retrained models to compare with)"
    if x.powered is False:
        return finding(case, x)
    near = [line.label for line in case.methods if line in shown and is_inside(line, x) and is_inside(line, y)]
    if not near:
        return "No method lies where retrained models lie"
    return (f"By {spaced(x.metric)} and {spaced(y.metric)}, {listed(near)} {'lie' if len(near) > 1 else 'lies'} where "
            "retrained models lie")


def _caption(case: Case, x: Column) -> str:
    count, failed = x.yardstick.n if x.yardstick else 0, case.named(FAILED)
    return (f"Grey box: where one more retrained model falls with probability 95 % in each direction; small "
            f"diamonds: the {count} retrained models. Bars: 95 % intervals, or the range over seeds. Last panel: "
            f"time of each method beside one retraining.{f' Failed, not drawn: {listed(failed)}.' * bool(failed)}")


def _points(axes: Axes, lines: Sequence[Line], x: Column, y: Column, look: Mapping[str, Look]) -> None:
    """One panel: the retrained models' region, then every line with its intervals."""
    from matplotlib.ticker import MaxNLocator

    _region(axes, x, y)
    for line in reversed(lines):
        a, b, style = line.cells[x.key], line.cells[y.key], look[line.label]
        assert a.value is not None and b.value is not None
        axes.errorbar([a.value], [b.value], xerr=arms(a), yerr=arms(b), marker=style.marker, color=style.colour,
                      markersize=9, markeredgecolor="white", markeredgewidth=0.8, elinewidth=1, linestyle="none", zorder=3)
    axes.set_xlabel(axis(x))
    axes.margins(0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _region(axes: Axes, x: Column, y: Column) -> None:
    """The retrained models' prediction intervals as a rectangle, and the models themselves."""
    from matplotlib.patches import Rectangle

    (left, right), (bottom, top) = x.band, y.band
    if left is None or right is None or bottom is None or top is None or not x.yardstick or not y.yardstick:
        return
    axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, facecolor=BAND, edgecolor="#888888", zorder=0,
                             linewidth=0.8))
    pairs = [(a, b) for a, b in zip(x.yardstick.values, y.yardstick.values, strict=False) if a is not None and b is not None]
    if pairs and len(x.yardstick.values) == len(y.yardstick.values):
        axes.plot([a for a, _ in pairs], [b for _, b in pairs], "D", color=RETRAINED, markersize=3.5, alpha=0.5, zorder=2)


def _zoom(lines: Sequence[Line], x: Column, y: Column) -> Limits | None:
    """Limits three region widths wide, where the region would be small among all points."""
    limits, small = [], False
    for column in (x, y):
        low, high = column.band
        if low is None or high is None:
            return None
        values = [low, high, *(line.cells[column.key].value or 0.0 for line in lines)]
        margin = max(high - low, 0.05 * (max(values) - min(values)), 1e-9)
        small = small or 6 * (high - low) < max(values) - min(values)
        floor, ceiling = column.bounds
        limits.append((low - margin if floor is None else max(low - margin, floor - margin / 4),
                       high + margin if ceiling is None else min(high + margin, ceiling + margin / 4)))
    return (limits[0], limits[1]) if small else None


def _costs(axes: Axes, lines: Sequence[Line], look: Mapping[str, Look]) -> None:
    """Time beside one retraining; the original, which costs nothing, stands at the left edge."""
    for place, line in enumerate(lines):
        style: dict[str, Any] = {"marker": look[line.label].marker, "color": look[line.label].colour, "markersize": 8,
                                 "linestyle": "none"}
        if line.ratio:
            axes.plot(line.ratio, place, **style)
            axes.annotate(f"{number(line.ratio)}×", (line.ratio, place), (8, 0), textcoords="offset points", va="center",
                          fontsize=9, color="#444444")
        else:
            axes.plot(0.03, place, transform=axes.get_yaxis_transform(), **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.axvline(1, color=RETRAINED, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(lines)), [short(line.label) for line in lines])
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.margins(x=0.3)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("time beside one retraining\n(lower is better)")
