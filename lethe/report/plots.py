"""The figures: forgetting against utility and cost, one strip per metric, score histograms. Each makes one point.

A drawing holds the figure, the rows behind it, and a caption; SVG, PNG and CSV are made of the same drawing. Retrained
models are always drawn in with their own spread. Text stays text in SVG. matplotlib is imported when one is drawn.
"""

from __future__ import annotations

import io
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lethe.core.evidence import INSIDE
from lethe.core.extras import needs_extra
from lethe.report.colours import BAND, ORIGINAL, RETRAINED, Look, looks
from lethe.report.view import Case, Cell, Column, Row
from lethe.report.words import DIRECTION, FAILED, heading, listed, number, printable, sign, spaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 7.4   # inches of a strip
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "lethe", "text.parse_math": False, "font.size": 11,
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"], "axes.spines.top": False,
    "axes.spines.right": False, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.edgecolor": "#888888", "axes.labelcolor": "#222222", "xtick.color": "#444444", "ytick.color": "#222222",
}


@dataclass(frozen=True)
class Drawing:
    """A figure with the data behind it. `title` states the finding, `caption` says how to read it."""

    name: str
    title: str
    caption: str
    figure: Figure
    rows: list[dict[str, Any]]


@contextmanager
def drawing() -> Iterator[None]:
    """matplotlib with our style and without warnings about letters that its font lacks (the browser has them)."""
    try:
        import matplotlib
    except ImportError:
        raise needs_extra("report", "drawing figures", "matplotlib", "none was drawn") from None
    with warnings.catch_warnings(), matplotlib.rc_context(STYLE):
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        yield


def case_looks(case: Case) -> dict[str, Look]:
    """The look of every row of a scenario, by label."""
    found = looks(row.name for row in case.methods)
    controls = {"original": Look(ORIGINAL, "X"), "retrained": Look(RETRAINED, "D")}
    return {row.label: controls.get(row.role) or found[row.name] for row in case.rows}


def tradeoff(case: Case) -> Drawing | None:
    """Forgetting against utility with the retrained models' region, enlarged where small; costs serve as the legend."""
    x, y = case.first("forgetting"), case.first("utility")
    shown = [row for row in case.rows if x and y and _value(row, x) is not None and _value(row, y) is not None]
    if x is None or y is None or not shown:
        return None
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    look = case_looks(case)
    zoom = _zoom(shown, x, y)
    figure = Figure(figsize=(12 if zoom else 9.5, max(4.2, 1.6 + 0.34 * len(shown))), layout="constrained")
    panels = figure.subplots(1, 3 if zoom else 2, width_ratios=(4, 4, 3) if zoom else (3, 2))
    for axes in panels[:-1]:
        _region(axes, x, y)
        for row in reversed(shown):
            _point(axes, row, x, y, look[row.label])
        axes.set_xlabel(_axis(x))
        axes.margins(0.08)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    panels[0].set_ylabel(_axis(y))
    if zoom:
        panels[1].set_xlim(*zoom[0])
        panels[1].set_ylim(*zoom[1])
        panels[0].set_title("all", fontsize=10, fontweight="normal")
        panels[1].set_title("enlarged: around the retrained models", fontsize=10, fontweight="normal")
    _costs(panels[-1], list(reversed(shown)), look)
    near = [row.label for row in case.methods if row in shown and _inside(row, x) and _inside(row, y)]
    title = (f"By {spaced(x.metric)} and {spaced(y.metric)}, {listed(near)} {'lie' if len(near) > 1 else 'lies'} where "
             "retrained models lie" if near else "No method lies where retrained models lie")
    if x.powered is False:
        title = _finding(case, x)
    if x.yardstick is None or y.yardstick is None:
        title = "What each method forgets and keeps (no retrained models to compare with)"
    figure.suptitle(_wrapped(title, 120 if zoom else 95), x=0.01, ha="left", fontsize=12, fontweight="bold")
    count, failed = (x.yardstick or {}).get("n", 0), case.named(FAILED)
    caption = (f"Grey box: where one more retrained model falls with probability 95 % in each direction; small "
               f"diamonds: the {count} retrained models. Bars: 95 % intervals, or the range over seeds. Last panel: "
               f"time of each method beside one retraining.{f' Failed, not drawn: {listed(failed)}.' * bool(failed)}")
    numbers = [_numbers(row, column, row.cells[column.key]) for row in shown for column in (x, y)]
    return Drawing("tradeoff", title, caption, figure, numbers)


def strip(case: Case, column: Column) -> Drawing | None:
    """One metric: every row as a dot with its interval, beside the retrained models' values and band."""
    shown = [row for row in case.rows if _value(row, column) is not None]
    if not shown:
        return None
    from matplotlib.figure import Figure

    look = case_looks(case)
    rows = list(reversed(shown))
    yard = column.yardstick
    labels = [_short(row.label) for row in rows] + ([f"{yard['n']} retrained models"] if yard else [])
    tall = 1.6 + 0.32 * len(rows)
    figure = Figure(figsize=(WIDE, tall))
    # margins by hand, not by the constrained layout: a page of 22 figures takes 3.1 instead of 4.5 s (CPU, n = 2)
    left = (0.3 + 0.093 * max(_columns(label) for label in labels)) / WIDE
    axes = figure.add_axes((left, 0.62 / tall, 1 - left - 0.95 / WIDE, 1 - 1.02 / tall))
    low, high = column.band
    if yard and low is not None and high is not None:
        axes.axvspan(low, high, color=BAND, zorder=0, linewidth=0)
        values = list(yard.get("values") or [])
        axes.plot(values, [len(rows)] * len(values), "D", color=RETRAINED, markersize=4, alpha=0.6)
    if column.original is not None:
        axes.axvline(column.original, color=ORIGINAL, linewidth=1, linestyle="--", zorder=1)
    for place, row in enumerate(rows):
        cell = row.cells[column.key]
        _bar(axes, cell, place, look[row.label])
        axes.annotate(sign(cell.verdict, cell.side), (1.01, place), xycoords=axes.get_yaxis_transform(), va="center",
                      fontsize=9, color="#222222")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(-0.6, len(rows) + (0.6 if yard else -0.4))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="#eeeeee", zorder=0)
    axes.set_axisbelow(True)
    size = max(row.cells[column.key].n or 0 for row in rows)
    axes.set_xlabel(_axis(column) + (f", n = {number(size)}" if size else ""))
    title = _finding(case, column)
    figure.suptitle(_wrapped(title, 68), x=0.01, ha="left", fontsize=12, fontweight="bold")
    caption = ("Grey band: where one more retrained model falls with probability 95 %. " if yard else
               "No retrained models to compare with. ") + "Dashed: the untouched model."
    return Drawing(f"{column.audit}-{column.metric}", title, caption, figure,
                   [_numbers(row, column, row.cells[column.key]) for row in shown])


def histograms(case: Case, column: Column) -> Drawing | None:
    """Per-record scores of forgotten and never-seen records, one panel per row."""
    found = [(row, item["histogram"]) for row in case.rows if column.key in row.cells
             for item in row.cells[column.key].items[:1] if item.get("histogram")]
    if not found:
        return None
    from matplotlib.figure import Figure

    wide = min(3, len(found))
    high = -(-len(found) // wide)
    figure = Figure(figsize=(3.2 * wide, 0.9 + 1.75 * high), layout="constrained")
    grid = figure.subplots(high, wide, sharex=True, sharey=True, squeeze=False)
    styles = {"forget": ("#D55E00", "-", 2.0), "holdout": ("#0072B2", "--", 1.6), "retrained": ("#000000", ":", 1.4)}
    rows = []
    for axes, (row, histogram) in zip(grid.flat, found, strict=False):
        edges = histogram["edges"]
        for key, (colour, line, width) in styles.items():
            counts = histogram.get(key)
            if counts and sum(counts):
                axes.stairs([c / sum(counts) for c in counts], edges, color=colour, linestyle=line, linewidth=width,
                            label=f"{key} (n = {number(sum(counts))})")
                rows += [{"row": row.label, "which": key, "from": a, "to": b, "count": c}
                         for a, b, c in zip(edges, edges[1:], counts, strict=False)]
        axes.set_title(_short(row.label), fontsize=10, fontweight="normal", loc="left")
    for axes in list(grid.flat)[len(found):]:
        axes.set_axis_off()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.supxlabel("score of a record", fontsize=10)
    figure.supylabel("share of records", fontsize=10)
    title = f"Scores behind {spaced(column.metric)}: where the lines part, records can be told apart"
    figure.suptitle(_wrapped(title, 30 * wide), x=0.01, ha="left", fontsize=12, fontweight="bold")
    return Drawing(f"{column.audit}-{column.metric}-scores", title, "One panel per model; shares of records per bin.",
                   figure, rows)


def svg(figure: Figure, label: str) -> str:
    """The figure as inline SVG: scales with the page, has a name for screen readers, and no ids that could collide."""
    handle = io.StringIO()
    figure.savefig(handle, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = handle.getvalue()
    text = text[text.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z.]+_\d+(?:\.\d+)?"', "", text)   # groups; markers and clip paths have hashed ids
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    safe = re.sub(r"[&<>\"']", lambda m: f"&#{ord(m[0])};", printable(label))
    return text.replace("<svg", f'<svg role="img" aria-label="{safe}"', 1)


def png(figure: Figure, dpi: int = 150) -> bytes:
    handle = io.BytesIO()
    figure.savefig(handle, format="png", dpi=dpi, metadata={"Software": None})
    return handle.getvalue()


def drawings(case: Case) -> list[Drawing]:
    """Every figure of a scenario."""
    makers: list[Callable[[], Drawing | None]] = [partial(tradeoff, case)]
    for column in case.columns.values():
        makers += [partial(strip, case, column), partial(histograms, case, column)]
    return [found for found in (make() for make in makers) if found is not None]


# -- parts -------------------------------------------------------------------------------------------------------------


def _region(axes: Axes, x: Column, y: Column) -> None:
    """The retrained models' prediction intervals as a rectangle, and the models themselves."""
    from matplotlib.patches import Rectangle

    (left, right), (bottom, top) = x.band, y.band
    if left is None or right is None or bottom is None or top is None or not x.yardstick or not y.yardstick:
        return
    axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, facecolor=BAND, edgecolor="#888888", zorder=0,
                             linewidth=0.8))
    across, up = list(x.yardstick.get("values") or []), list(y.yardstick.get("values") or [])
    if len(across) == len(up):
        axes.plot(across, up, "D", color=RETRAINED, markersize=3.5, alpha=0.5, zorder=2)


def _zoom(rows: list[Row], x: Column, y: Column) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Limits three region widths wide, where the region would be small among all points."""
    limits, small = [], False
    for column in (x, y):
        low, high = column.band
        if low is None or high is None:
            return None
        values = [low, high, *(row.cells[column.key].value or 0.0 for row in rows)]
        margin = max(high - low, 0.05 * (max(values) - min(values)), 1e-9)
        small = small or 6 * (high - low) < max(values) - min(values)
        floor, ceiling = column.bounds
        limits.append((low - margin if floor is None else max(low - margin, floor - margin / 4),
                       high + margin if ceiling is None else min(high + margin, ceiling + margin / 4)))
    return (limits[0], limits[1]) if small else None


def _costs(axes: Axes, rows: list[Row], look: dict[str, Look]) -> None:
    """Time beside one retraining; the original, which costs nothing, stands at the left edge."""
    for place, row in enumerate(rows):
        style: dict[str, Any] = {"marker": look[row.label].marker, "color": look[row.label].colour, "markersize": 8,
                                 "linestyle": "none"}
        if row.ratio:
            axes.plot(row.ratio, place, **style)
            axes.annotate(f"{number(row.ratio)}×", (row.ratio, place), (8, 0), textcoords="offset points", va="center",
                          fontsize=9, color="#444444")
        else:
            axes.plot(0.03, place, transform=axes.get_yaxis_transform(), **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.axvline(1, color=RETRAINED, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [_short(row.label) for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.margins(x=0.3)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("time beside one retraining\n(lower is better)")


def _point(axes: Axes, row: Row, x: Column, y: Column, look: Look) -> None:
    a, b = row.cells[x.key], row.cells[y.key]
    assert a.value is not None and b.value is not None
    axes.errorbar([a.value], [b.value], xerr=_arms(a), yerr=_arms(b), marker=look.marker, color=look.colour,
                  markersize=9, markeredgecolor="white", markeredgewidth=0.8, elinewidth=1, linestyle="none", zorder=3)


def _bar(axes: Axes, cell: Cell, place: int, look: Look) -> None:
    assert cell.value is not None
    axes.errorbar([cell.value], [place], xerr=_arms(cell), marker=look.marker, color=look.colour, markersize=8,
                  markeredgecolor="white", markeredgewidth=0.8, elinewidth=1.6, linestyle="none", zorder=3)


def _arms(cell: Cell) -> list[list[float]] | None:
    if cell.value is None or cell.low is None or cell.high is None:
        return None
    return [[max(0.0, cell.value - cell.low)], [max(0.0, cell.high - cell.value)]]


def _value(row: Row, column: Column) -> float | None:
    cell = row.cells.get(column.key)
    return cell.value if cell else None


def _inside(row: Row, column: Column) -> bool:
    cell = row.cells.get(column.key)
    return cell is not None and cell.verdict == INSIDE


def _axis(column: Column) -> str:
    return f"{printable(spaced(column.metric))} ({DIRECTION.get(column.better, column.better)})"


def _finding(case: Case, column: Column) -> str:
    name = heading(column.metric)
    judged = [row for row in case.methods if column.key in row.cells]
    inside = [row for row in judged if row.cells[column.key].verdict == INSIDE]
    if column.yardstick is None or column.tier not in ("forgetting", "utility"):
        return name
    if column.tier == "forgetting" and column.powered is False:
        return f"{name} cannot tell the untouched model from retrained ones"
    return f"{name}: {len(inside)} of {len(judged)} methods like retrained models"


def _numbers(row: Row, column: Column, cell: Cell) -> dict[str, Any]:
    yard: Mapping[str, Any] = column.yardstick or {}
    return {"row": row.label, "role": row.role, "audit": column.audit, "metric": column.metric, "value": cell.value,
            "low": cell.low, "high": cell.high, "n": cell.n, "seeds": cell.seeds, "verdict": cell.verdict,
            "side": cell.side, "original": column.original,
            **{f"yardstick_{key}": yard.get(key) for key in ("mean", "sd", "n", "low", "high")},
            "seconds": row.seconds, "ratio_to_retraining": row.ratio}


def _short(label: str) -> str:
    """A label that leaves room for the drawing."""
    text = printable(label).replace("\n", " ")
    return text if len(text) <= 36 else f"{text[:35]}…"


def _columns(text: str) -> int:
    """Width of a text in letters; letters of East Asian scripts count twice."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(printable(text), width)[:3])
