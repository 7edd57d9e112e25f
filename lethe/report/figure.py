"""What every figure shares: the drawing with the rows behind it, our style, marks with intervals, and SVG and PNG.

Retrained models are always drawn in with their own spread. Text stays text in SVG. matplotlib is imported when one is drawn.
"""

from __future__ import annotations

import io
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lethe.core.evidence import INSIDE
from lethe.core.extras import needs_extra
from lethe.core.words import heading, spaced
from lethe.report.colours import ORIGINAL, RETRAINED, Look, looks
from lethe.report.sketch import Sketch, escaped
from lethe.report.view import Case, Cell, Column, Line
from lethe.report.words import direction, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "lethe", "text.parse_math": False, "font.size": 11,
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"], "axes.spines.top": False,
    "axes.spines.right": False, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.edgecolor": "#888888", "axes.labelcolor": "#222222", "xtick.color": "#444444", "ytick.color": "#222222",
}


@dataclass(frozen=True)
class Drawing:
    """A figure with the data behind it. `title` states the finding, `caption` explains how to read it."""

    name: str
    title: str
    caption: str
    figure: Figure | Sketch
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


def svg(figure: Figure | Sketch, label: str) -> str:
    """The figure as inline SVG: scales with the page, has a name for screen readers, and no ids that could collide."""
    text = figure.svg() if isinstance(figure, Sketch) else _drawn(figure)
    return text.replace("<svg", f'<svg role="img" aria-label="{escaped(label)}"', 1)


def _drawn(figure: Figure) -> str:
    """What matplotlib draws, as an SVG element without a size."""
    handle = io.StringIO()
    figure.savefig(handle, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = handle.getvalue()
    text = text[text.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z.]+_\d+(?:\.\d+)?"', "", text)   # groups; markers and clip paths have hashed ids
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)


def png(figure: Figure | Sketch, dpi: int = 150) -> bytes:
    """The figure as PNG."""
    handle = io.BytesIO()
    drawn = figure.figure() if isinstance(figure, Sketch) else figure
    drawn.savefig(handle, format="png", dpi=dpi, metadata={"Software": None})
    return handle.getvalue()


def case_looks(case: Case) -> dict[str, Look]:
    """The look of every line of a scenario, by label."""
    styles = looks(line.name for line in case.methods)
    controls = {"original": Look(ORIGINAL, "X"), "retrained": Look(RETRAINED, "D")}
    return {line.label: controls.get(line.role) or styles[line.name] for line in case.lines}


def value_of(line: Line, column: Column) -> float | None:
    """The value of a line in a column; None where there is none."""
    cell = line.cells.get(column.key)
    return cell.value if cell else None


def is_inside(line: Line, column: Column) -> bool:
    """Whether a value lies where retrained models lie."""
    cell = line.cells.get(column.key)
    return cell is not None and cell.verdict == INSIDE


def arms(cell: Cell) -> list[list[float]] | None:
    """The interval as lengths below and above the value, for matplotlib.  -> [[below], [above]]"""
    if cell.value is None or cell.low is None or cell.high is None:
        return None
    return [[max(0.0, cell.value - cell.low)], [max(0.0, cell.high - cell.value)]]


def axis(column: Column) -> str:
    """What stands beside an axis: the metric and its direction."""
    return f"{printable(spaced(column.metric))} ({direction(column.better, column.retrained)})"


def finding(case: Case, column: Column) -> str:
    """The title of a figure of one metric: how many methods are like retrained models."""
    name = heading(column.metric)
    judged = [line for line in case.methods if column.key in line.cells]
    if not judged or not column.retrained or column.tier not in ("forgetting", "utility"):
        return name
    if column.tier == "forgetting" and column.powered is False:
        return f"{name} does not detect the untouched model"
    return f"{name}: {sum(is_inside(line, column) for line in judged)} of {len(judged)} methods like retrained models"


def numbers(line: Line, column: Column) -> dict[str, Any]:
    """The row of a figure's CSV behind one of its marks."""
    cell, yard = line.cells[column.key], column.yardstick
    return {"row": line.label, "role": line.role, "audit": column.audit, "metric": column.metric, "value": cell.value,
            "low": cell.low, "high": cell.high, "n": cell.n, "seeds": cell.seeds, "verdict": cell.verdict,
            "side": cell.side, "original": column.original,
            **{f"yardstick_{key}": getattr(yard, key, None) for key in ("mean", "sd", "n", "low", "high")},
            "seconds": line.seconds, "ratio_to_retraining": line.ratio}


def short(label: str) -> str:
    """A label that leaves room for the drawing."""
    text = printable(label).replace("\n", " ")
    return text if len(text) <= 36 else f"{text[:35]}…"


def letters(text: str) -> int:
    """Width of a text in letters; letters of East Asian scripts count twice."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def titled(figure: Figure, title: str, width: int) -> None:
    """Write the title at the top left, wrapped to `width` letters and cut after three lines."""
    text = "\n".join(textwrap.wrap(printable(title), width)[:3])
    figure.suptitle(text, x=0.01, ha="left", fontsize=12, fontweight="bold")
