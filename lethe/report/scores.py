"""The figure behind an attack: scores of single records, forgotten and unseen, one panel per model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lethe.core.words import number, spaced
from lethe.report.figure import Drawing, short, titled
from lethe.report.view import Case, Column, Line
from lethe.results.schema import Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = {"forget": ("#D55E00", "-", 2.0), "holdout": ("#0072B2", "--", 1.6), "retrained": ("#000000", ":", 1.4)}


def scores(case: Case, column: Column) -> Drawing | None:
    """Per-record scores of forgotten and unseen records, one panel per line (its first seed); None where there are none."""
    drawn = [(line, histogram) for line in case.lines if column.key in line.cells
             for item in line.cells[column.key].items[:1] if (histogram := item.histogram) is not None]
    if not drawn:
        return None
    from matplotlib.figure import Figure

    wide = min(3, len(drawn))
    high = -(-len(drawn) // wide)
    figure = Figure(figsize=(3.2 * wide, 0.9 + 1.75 * high), layout="constrained")
    grid = figure.subplots(high, wide, sharex=True, sharey=True, squeeze=False)
    rows = [row for axes, (line, histogram) in zip(grid.flat, drawn, strict=False) for row in _panel(axes, line, histogram)]
    for axes in list(grid.flat)[len(drawn):]:
        axes.set_axis_off()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.supxlabel("score of a record", fontsize=10)
    figure.supylabel("share of records", fontsize=10)
    title = f"Scores behind {spaced(column.metric)}: where the lines part, forgotten records are detectable"
    titled(figure, title, 30 * wide)
    return Drawing(f"{column.audit}-{column.metric}-scores", title, "One panel per model; shares of records per bin.",
                   figure, rows)


def _panel(axes: Axes, line: Line, histogram: Histogram) -> list[dict[str, Any]]:
    """Draw one model; the rows behind its panel."""
    rows: list[dict[str, Any]] = []
    edges = [edge for edge in histogram.edges if edge is not None]
    counted = {"forget": histogram.forget, "holdout": histogram.holdout, "retrained": histogram.retrained}
    for key, (colour, style, width) in STYLES.items():
        counts = counted[key]
        if sum(counts):
            axes.stairs([c / sum(counts) for c in counts], edges, color=colour, linestyle=style, linewidth=width,
                        label=f"{key} (n = {number(sum(counts))})")
            rows += [{"row": line.label, "which": key, "from": a, "to": b, "count": c}
                     for a, b, c in zip(edges, edges[1:], counts, strict=False)]
    axes.set_title(short(line.label), fontsize=10, fontweight="normal", loc="left")
    return rows
