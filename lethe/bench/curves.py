"""`lethe bench SUITE --page FILE.md` where the suite has `across`: one curve a method, what it keeps by what it erases. No torch.

The problems of such a suite are doses, from the least to the most: the same originals, every method run a little, more, and much.
Each dose is a point of the method's curve, the untouched original its beginning. Methods are compared where their curves pass the
same value of `across`, not at equal steps, which mean something else to each of them. What is run at one dose alone, such as a
retraining, has no curve: it is a control, which stands beside the others where it is. Doses may come in groups ('object: more'),
each a page of its own within the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from lethe.bench.grid import drawn
from lethe.bench.page import ENDINGS, cells, endings, fixed, written_as
from lethe.bench.suite import Suite, expectation, read
from lethe.core.catalogue import entries
from lethe.core.evidence import Better
from lethe.core.files import write_text
from lethe.core.words import heading, spaced
from lethe.results import measured
from lethe.results.measured import Number

MANY = 7   # methods that the title names at most: the best, and the last

HEAD = """# {title}

Rebuilt by `lethe bench {suite}` (measures) and `lethe bench {suite} --page {page}` (writes {makes}).
{about}
{lead}
How to read a cell of the first table: the value where the curve of the method passes that {across}, on the straight line
between two doses, {spread}; – where no dose gets there.
{legend}"""

FACTS = {"cost": "steps or examples of the method, whichever is more, in trainings of the original",
         "seconds": "processor time of the method",
         "memory": "peak of the process while the method ran, in MB, with what earlier ones left there",
         "artefact": "MB of what the method saves: of a guard its own files, else the whole folder"}

LEAD = """
![{finding}]({figure})

**{finding}**
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

    @property
    def control(self) -> bool:
        """Whether it is a point, no curve."""
        return len(self.points) < 3

    def at(self, across: str, level: float, metric: str) -> tuple[float, float | None] | None:
        """(mean, sd) of a metric where the curve first passes this level; None where it never does, and for the sd of one seed.

        (.1, .9), (.7, .8), (.9, .6) at .8: half of the way from .8 to .6, so .7.
        """
        if self.control:
            return None
        points = [point for point in self.points if metric in point.mean]
        for before, after in pairwise(points):
            low, high = before.mean[across], after.mean[across]
            if low <= level <= high and high > low:
                share = (level - low) / (high - low)
                mean, sd = (one[0] + share * (one[1] - one[0]) for one in (
                    (before.mean[metric], after.mean[metric]), (before.sd.get(metric, 0.0), after.sd.get(metric, 0.0))))
                return mean, sd if metric in after.sd else None
        return None


def curves(suite: str, place: Path | None = None, group: str = "") -> list[Curve]:
    """The curve of every method that was measured, in the order of the suite's methods; of the doses of one group."""
    asked = read(suite)
    doses = asked.groups()[group]
    methods = dict.fromkeys(str(one["name"]) for problem, request in asked.problems() if problem in doses.values()
                            for one in request.methods)
    return [curve for name in methods if (curve := _curve(name, suite, doses, asked.keep, asked.across, place)) is not None]


def _curve(name: str, suite: str, doses: Mapping[str, str], keep: Sequence[str], across: str, place: Path | None) -> Curve | None:
    known = measured.read(name, place).numbers
    points, first, seeds = [], Point("original", {}, {}), 0
    for dose, problem in doses.items():
        mine = {one.metric: one for one in known if one.problem == f"{suite}: {problem}" and one.metric in keep and one.seeds}
        if across not in mine:
            continue
        first, seeds = replace(first, mean={**_untouched(mine), **first.mean}), max(seeds, mine[across].seeds)
        points.append(Point(dose, {metric: one.mean for metric, one in mine.items() if one.mean is not None},
                            {metric: one.sd for metric, one in mine.items() if one.sd is not None}))
    return Curve(name, (first, *points), seeds) if points else None


def _untouched(numbers: Mapping[str, Number]) -> dict[str, float]:
    return {metric: one.untouched for metric, one in numbers.items() if one.untouched is not None}


def directions(metrics: Sequence[str], less: Sequence[str] = ()) -> dict[str, Better]:
    """Which way of each metric is better, as the audits declare it; else lower for those in `less`, and higher for what is to be
    as in retrained models."""
    lower = {metric for metric, one in declared().items() if "lower" in (one.get("better"), *one.get("args", ())[2:3])}
    lower |= set(less)
    return {metric: "lower" if metric in lower else "higher" for metric in metrics}


def declared() -> dict[str, Mapping[str, Any]]:
    """What the audits declare of every metric."""
    return {metric: one for entry in entries("audits").values() for metric, one in entry.facts.get("metrics", {}).items()
            if isinstance(one, Mapping)}


def curves_page(suite: str, page: Path, place: Path | None = None) -> list[Path]:
    """Write the page and, where it shows no pictures, beside it the figure as SVG: from the suite and `measured/` alone."""
    from lethe.report.figure import drawing

    write_text(page, page_text(suite, page, place))
    if read(suite).pictures:
        return [page]
    shown = page.with_suffix(".svg")
    with drawing():
        write_text(shown, figure(suite, curves(suite, place)))
    return [page, shown]


def page_text(suite: str, page: Path, place: Path | None = None) -> str:
    """The page as Markdown."""
    asked = read(suite)
    by = {group: curves(suite, place, group) for group in asked.groups()}
    lead = "" if asked.pictures else LEAD.format(finding=finding(suite, by[""]), figure=page.with_suffix(".svg").name)
    head = HEAD.format(title=f"{asked.title}, at equal {spaced(asked.across)}", suite=suite, about=expectation(suite), lead=lead,
                       page=written_as(page), across=spaced(asked.across),
                       spread=_spread(max((curve.seeds for found in by.values() for curve in found), default=0)),
                       legend=_legend(asked) if asked.tables else "", makes="this page" if asked.pictures else
                       "this page and the figure")
    missing = ", ".join(group for group, found in by.items() if not found)
    head += f"\nNot measured yet: {missing}.\n" if missing else ""
    return head + "".join(_group(suite, asked, group, found, place) for group, found in by.items() if found)


def _spread(seeds: int) -> str:
    return ("of one original, so that nothing is known of the spread" if seeds == 1 else
            f"and the standard deviation over {seeds} originals, read off in the same way")


def _legend(asked: Suite) -> str:
    """What every column counts, in the words of its audit."""
    words = {**{metric: one["args"][0] for metric, one in declared().items() if one.get("args")}, **FACTS}
    lines = "".join(f"- {spaced(metric)}: {words[metric]}\n" for metric in asked.keep if metric in words)
    return ("Before the methods stand the controls, at the accuracy that they have: the untouched original, and what has one "
            f"dose alone.\n\n{lines}")


def _group(suite: str, asked: Suite, group: str, found: Sequence[Curve], place: Path | None) -> str:
    """The tables of one group, its pictures, and how runs ended otherwise than their methods meant."""
    head = f"\n## {heading(group)}\n\n**{finding(suite, found)}**\n" if group else ""
    if asked.pictures:
        head += f"\n![the same prompts and noise for every method, at its largest dose](../measured/{drawn(suite, group)})\n"
    others = tuple(metric for metric in asked.keep if metric != asked.across)
    tables = "".join(_levels(asked, title, metrics, found) for title, metrics in (asked.tables or {"": others}).items())
    some = [cell for problem, all_cells in cells(suite, place).items() if problem in asked.groups()[group].values()
            for cell in all_cells]
    why = "".join(endings(kind, title, some) for kind, title in ENDINGS.items()) if asked.pictures else ""
    return head + tables + _doses(asked.keep, found) + why


def finding(suite: str, found: Sequence[Curve], level: float = 0.9) -> str:
    """The title of the figure: who is best by the first metric at this level, and by how much."""
    asked = read(suite)
    metric = next(one for one in asked.keep if one != asked.across)
    at = {curve.method: value[0] for curve in found if (value := curve.at(asked.across, level, metric)) is not None}
    if not at:
        return f"No method reaches {spaced(asked.across)} {fixed(level, 2)}"
    lower = directions([metric], asked.lower)[metric] == "lower"
    order = sorted(at, key=lambda name: at[name] if lower else -at[name])
    few = order if len(order) <= MANY else [*order[:MANY - 1], order[-1]]
    told = [f"{name} {fixed(at[name], 2)}" for name in few]
    if few != order:
        told[-1] = f"… {told[-1]}"
    return f"{spaced(metric)} at {spaced(asked.across)} {fixed(level, 2)}: {', '.join(told)}".capitalize()


def _levels(asked: Suite, title: str, others: Sequence[str], found: Sequence[Curve]) -> str:
    ways, across = directions(others, asked.lower), asked.across
    heads = " | ".join(f"{spaced(metric)} ({way} is better)" for metric, way in ways.items())
    start = Curve("untouched", found[0].points[:1], 0)
    rows = [f"| {fixed(point.mean.get(across), 2)} | {curve.method} | " + " | ".join(_at(point, metric) for metric in others)
            for curve in (start, *found) if asked.tables and curve.control for point in curve.points[-1:]]
    short = ""
    for level in asked.levels:
        read_off = {curve.method: [curve.at(across, level, metric) for metric in others] for curve in found if not curve.control}
        left_out = [name for name, values in read_off.items() if asked.tables and not any(values)]
        rows += [f"| {level:g} | `{name}` | {' | '.join(map(_cell, values))}" for name, values in read_off.items()
                 if name not in left_out]
        short += f"\nAt no dose {level:g}: {', '.join(f'`{name}`' for name in left_out)}.\n" if left_out else ""
    return (f"\nAt equal {spaced(across)}{title and ': '}{title}\n\n| {spaced(across)} | method | {heads} |\n"
            f"|---|---|{'---|' * len(others)}\n" + "".join(f"{row} |\n" for row in rows) + short)


def _doses(keep: Sequence[str], found: Sequence[Curve]) -> str:
    rows = [f"| `{curve.method}` | {point.dose} | {' | '.join(_at(point, metric) for metric in keep)}"
            for curve in found for point in curve.points[1:]]
    first = "".join(f"| untouched | – | {' | '.join(_at(curve.points[0], metric) for metric in keep)} |\n" for curve in found[:1])
    return (f"\nEvery dose, mean ± standard deviation over originals\n\n| method | dose | {' | '.join(map(spaced, keep))} |\n"
            f"|---|---|{'---|' * len(keep)}\n{first}" + "".join(f"{row} |\n" for row in rows))


def _at(point: Point, metric: str) -> str:
    return _cell((point.mean[metric], point.sd.get(metric)) if metric in point.mean else None)


def _cell(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return "–"
    mean, sd = value
    digits = 2 if abs(mean) < 100 else 0
    return fixed(mean, digits) if sd is None else f"{fixed(mean, digits)} ± {fixed(sd, digits)}"


def figure(suite: str, found: Sequence[Curve]) -> str:
    """One panel for every metric that is kept beside `across`, one curve a method, as SVG."""
    from matplotlib.figure import Figure

    from lethe.report.colours import ORIGINAL, looks
    from lethe.report.figure import svg
    from lethe.report.words import DIRECTION

    asked = read(suite)
    others = [metric for metric in asked.keep if metric != asked.across]
    ways, styles = directions(asked.keep, asked.lower), looks(curve.method for curve in found)
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
