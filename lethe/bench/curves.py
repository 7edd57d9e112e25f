"""`lethe bench SUITE --page FILE.md` where the suite has `across`: one curve a method, what it keeps by what it erases. No torch.

The problems of such a suite are doses, from the least to the most: the same originals, every method run a little, more, and much.
Each dose is a point of the method's curve, the untouched original its beginning. Methods are compared where their curves pass the
same value of `across`, not at equal steps, which mean something else to each of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lethe.bench.page import fixed
from lethe.bench.suite import expectation, read
from lethe.core.catalogue import entries
from lethe.core.evidence import Better
from lethe.core.files import write_text
from lethe.core.words import spaced
from lethe.results import measured
from lethe.results.measured import Number

LEVELS = (0.8, 0.9, 0.95)   # of `across`, at which the curves are read

HEAD = """# {title}

Rebuilt by `lethe bench {suite}` (measures) and `lethe bench {suite} --page {page}` (writes this page and the figure).
{about}

![{finding}]({figure})

**{finding}**

How to read a cell of the first table: the value where the curve of the method passes that {across}, on the straight line
between two doses, and the standard deviation over {seeds} originals, read off in the same way; – where no dose gets there.
"""


@dataclass(frozen=True)
class Point:
    """Mean and standard deviation over originals at one dose, by metric."""

    dose: str
    mean: Mapping[str, float]
    sd: Mapping[str, float]


@dataclass(frozen=True)
class Curve:
    """One method, from the untouched original to its largest dose."""

    method: str
    points: tuple[Point, ...]
    seeds: int

    def at(self, across: str, level: float, metric: str) -> tuple[float, float] | None:
        """(mean, sd) of a metric where the curve first passes this level; None where it never does.

        (.1, .9), (.7, .8), (.9, .6) at .8: half of the way from .8 to .6, so .7.
        """
        for before, after in zip(self.points, self.points[1:], strict=False):
            low, high = before.mean[across], after.mean[across]
            if low <= level <= high and high > low and metric in before.mean and metric in after.mean:
                share = (level - low) / (high - low)
                mean, sd = (one[0] + share * (one[1] - one[0]) for one in (
                    (before.mean[metric], after.mean[metric]), (before.sd.get(metric, 0.0), after.sd.get(metric, 0.0))))
                return mean, sd
        return None


def curves(suite: str, place: Path | None = None) -> list[Curve]:
    """The curve of every method that was measured, in the order of the suite's methods."""
    asked, doses = read(suite), list(read(suite).requests)
    methods = dict.fromkeys(str(one["name"]) for _, request in asked.problems() for one in request.methods)
    return [curve for name in methods if (curve := _curve(name, suite, doses, asked.keep, asked.across, place)) is not None]


def _curve(name: str, suite: str, doses: Sequence[str], keep: Sequence[str], across: str, place: Path | None) -> Curve | None:
    known = measured.read(name, place).numbers
    points, first, seeds = [], None, 0
    for dose in doses:
        mine = {one.metric: one for one in known if one.problem == f"{suite}: {dose}" and one.metric in keep and one.seeds}
        if across not in mine:
            continue
        first, seeds = first or _untouched(mine), max(seeds, mine[across].seeds)
        points.append(Point(dose, {metric: one.mean for metric, one in mine.items() if one.mean is not None},
                            {metric: one.sd or 0.0 for metric, one in mine.items()}))
    return Curve(name, (first, *points), seeds) if first is not None else None


def _untouched(numbers: Mapping[str, Number]) -> Point:
    return Point("original", {metric: one.untouched for metric, one in numbers.items() if one.untouched is not None}, {})


def directions(metrics: Sequence[str]) -> dict[str, Better]:
    """Which way of each metric is better, as the audits declare it; higher for what is to be as in retrained models."""
    lower = {metric for entry in entries("audits").values() for metric, told in entry.facts.get("metrics", {}).items()
             if isinstance(told, Mapping) and told.get("better") == "lower"}
    return {metric: "lower" if metric in lower else "higher" for metric in metrics}


def curves_page(suite: str, page: Path, place: Path | None = None) -> list[Path]:
    """Write the page and, beside it, the figure as SVG. The page depends on the suite and on `measured/` alone."""
    from lethe.report.figure import drawing

    drawn = page.with_suffix(".svg")
    found = curves(suite, place)
    write_text(page, page_text(suite, page, found))
    with drawing():
        write_text(drawn, figure(suite, found))
    return [page, drawn]


def page_text(suite: str, page: Path, found: Sequence[Curve]) -> str:
    """The page as Markdown."""
    asked = read(suite)
    others = [metric for metric in asked.keep if metric != asked.across]
    title = f"What erasing costs what was never named, at equal {spaced(asked.across)}"
    head = HEAD.format(title=title, suite=suite, page=page.as_posix() if not page.is_absolute() else f"docs/{page.name}",
                       about=expectation(suite), finding=finding(suite, found), figure=page.with_suffix(".svg").name,
                       across=spaced(asked.across), seeds=max((curve.seeds for curve in found), default=0))
    return head + _levels(asked.across, others, found) + _doses(asked.keep, found)


def finding(suite: str, found: Sequence[Curve], level: float = 0.9) -> str:
    """The title of the figure: who is best by the first metric at this level, and by how much."""
    asked = read(suite)
    metric = next(one for one in asked.keep if one != asked.across)
    at = {curve.method: value[0] for curve in found if (value := curve.at(asked.across, level, metric)) is not None}
    if not at:
        return f"No method reaches {spaced(asked.across)} {fixed(level, 2)}"
    lower = directions([metric])[metric] == "lower"
    order = sorted(at, key=lambda name: at[name] if lower else -at[name])
    told = ", ".join(f"{name} {fixed(at[name], 2)}" for name in order)
    return f"{spaced(metric)} at {spaced(asked.across)} {fixed(level, 2)}: {told}".capitalize()


def _levels(across: str, others: Sequence[str], found: Sequence[Curve]) -> str:
    ways = directions(others)
    heads = " | ".join(f"{spaced(metric)} ({way} is better)" for metric, way in ways.items())
    rows = [f"| {level:g} | `{curve.method}` | " + " | ".join(_cell(curve.at(across, level, metric)) for metric in others)
            for level in LEVELS for curve in found]
    return (f"\nAt equal {spaced(across)}\n\n| {spaced(across)} | method | {heads} |\n|---|---|{'---|' * len(others)}\n"
            + "".join(f"{row} |\n" for row in rows))


def _doses(keep: Sequence[str], found: Sequence[Curve]) -> str:
    rows = [f"| `{curve.method}` | {point.dose} | " + " | ".join(
        _cell((point.mean[metric], point.sd.get(metric, 0.0)) if metric in point.mean else None) for metric in keep)
        for curve in found for point in curve.points[1:]]
    first = "".join(f"| untouched | – | {' | '.join(_cell(_only(curve.points[0].mean.get(metric))) for metric in keep)} |\n"
                    for curve in found[:1])
    return (f"\nEvery dose, mean ± standard deviation over originals\n\n| method | dose | {' | '.join(map(spaced, keep))} |\n"
            f"|---|---|{'---|' * len(keep)}\n{first}" + "".join(f"{row} |\n" for row in rows))


def _only(value: float | None) -> tuple[float, None] | None:
    return None if value is None else (value, None)


def _cell(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return "–"
    mean, sd = value
    return fixed(mean, 2) if sd is None else f"{fixed(mean, 2)} ± {fixed(sd, 2)}"


def figure(suite: str, found: Sequence[Curve]) -> str:
    """One panel for every metric that is kept beside `across`, one curve a method, as SVG."""
    from matplotlib.figure import Figure

    from lethe.report.colours import ORIGINAL, looks
    from lethe.report.figure import svg
    from lethe.report.words import DIRECTION

    asked = read(suite)
    others = [metric for metric in asked.keep if metric != asked.across]
    ways, styles = directions(asked.keep), looks(curve.method for curve in found)
    beside = min(2, len(others))
    high = math.ceil(len(others) / beside)
    drawn = Figure(figsize=(4.6 * beside, 0.4 + 3.8 * high), layout="constrained")
    panels = drawn.subplots(high, beside, squeeze=False).flat
    for metric, axes in zip(others, panels, strict=False):
        for curve in found:
            look = styles[curve.method]
            points = [point for point in curve.points if metric in point.mean]
            x, y = ([point.mean[name] for point in points] for name in (asked.across, metric))
            arms = [[point.sd.get(name, 0.0) for point in points] for name in (asked.across, metric)]
            axes.errorbar(x, y, xerr=arms[0], yerr=arms[1], color=look.colour, marker=look.marker, markersize=6, linewidth=1.6,
                          elinewidth=0.7, markeredgecolor="white", label=curve.method)
        start = found[0].points[0].mean if found else {}
        if metric in start:
            axes.plot([start[asked.across]], [start[metric]], "X", color=ORIGINAL, markersize=9, label="original", zorder=4)
        axes.set_xlabel(f"{spaced(asked.across)} ({DIRECTION[ways[asked.across]]})")
        axes.set_ylabel(f"{spaced(metric)} ({DIRECTION[ways[metric]]})")
    for axes in panels:   # those that are left: an odd number of metrics leaves one
        axes.remove()
    drawn.axes[0].legend(frameon=False, fontsize=9)
    title = finding(suite, found)
    drawn.suptitle(title, fontsize=11, fontweight="bold")
    return svg(drawn, title)
