"""Courses of a suite: what a metric is after each of several requests of one original, as a table and as a figure.

A suite states them by `courses`: metrics that it keeps, of problems named 'group: dose', for instance 'at once: forget05'.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lethe.bench.page import Cell, cells, fixed
from lethe.bench.suite import Suite, read
from lethe.core.words import spaced
from lethe.results.measured import Number


def doses(asked: Suite) -> dict[str, dict[str, str]]:
    """Group -> dose -> problem, where the page shows courses; else none."""
    return {group: known for group, known in asked.groups().items() if group and asked.courses}


def course(metric: str, groups: Mapping[str, Mapping[str, str]], found: Mapping[str, Sequence[Cell]]) -> str:
    """One metric dose by dose: the untouched original, then every method of every group; and what is left of the original's at
    the last dose."""
    columns, known = _columns(groups), list(_lines(metric, groups, found))
    if not known:
        return ""

    def row(group: str, name: str, numbers: Sequence[Number | None]) -> str:
        last = next((one for one in reversed(numbers) if one is not None and one.mean is not None), None)
        share = last.mean / last.untouched if last is not None and last.mean is not None and last.untouched else None
        told = f"{' | '.join(map(shown, numbers))} | {'–' if share is None else f'{100 * share:.0f} %'}"
        return f"| {group} | `{name}` | {told} |\n"

    untouched = [value(before) for before in _untouched(metric, groups, found)]
    return (f"\n## {spaced(metric)[0].upper()}{spaced(metric)[1:]}, request after request\n\n| how | method | "
            f"{' | '.join(columns)} | left of the original's |\n|---|---|{'---|' * len(columns)}---|\n"
            f"| – | untouched | {' | '.join(untouched)} | |\n{''.join(row(*line) for line in known)}")


def figure(suite: str, place: Path | None = None) -> str:
    """One panel a metric, one line a group and method with the spread over originals, as SVG; '' where nothing was measured."""
    from matplotlib.figure import Figure

    from lethe.report.colours import ORIGINAL, looks
    from lethe.report.figure import svg

    asked, found = read(suite), cells(suite, place)
    groups = doses(asked)
    drawn = {metric: list(_lines(metric, groups, found)) for metric in asked.courses}
    styles = looks(_named(group, name) for lines in drawn.values() for group, name, _ in lines)
    if not styles:
        return ""
    columns = _columns(groups)
    page = Figure(figsize=(4.6 * len(drawn), 4.2), layout="constrained")
    for axes, (metric, lines) in zip(page.subplots(1, len(drawn), squeeze=False).flat, drawn.items(), strict=True):
        for group, name, numbers in lines:
            points = [(x, one.mean, one.sd or 0.0) for x, one in enumerate(numbers) if one is not None and one.mean is not None]
            look = styles[_named(group, name)]
            axes.errorbar(*zip(*[point[:2] for point in points], strict=True), yerr=[point[2] for point in points],
                          color=look.colour, marker=look.marker, markersize=6, linewidth=1.6, elinewidth=0.7,
                          markeredgecolor="white", label=_named(group, name))
        before = [(x, one) for x, one in enumerate(_untouched(metric, groups, found)) if one is not None]
        axes.plot(*zip(*before, strict=True), color=ORIGINAL, linestyle="--", linewidth=1.2, label="original")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_ylabel(spaced(metric))
    page.axes[0].legend(frameon=False, fontsize=8)
    page.suptitle(asked.title, fontsize=11, fontweight="bold")
    return svg(page, asked.title)


def _named(group: str, method: str) -> str:
    """A line's name; 'in turn, npo' says of the method in_turn what it is."""
    return group if spaced(method) in group else f"{method}, {group}"


def value(number: float | None) -> str:
    """A number as tables show it."""
    return "–" if number is None else fixed(number, _digits(number))


def shown(number: Number | None) -> str:
    """Mean ± standard deviation over originals."""
    if number is None or number.mean is None:
        return "–"
    return value(number.mean) + ("" if number.sd is None else f" ± {fixed(number.sd, _digits(number.mean))}")


def _digits(number: float) -> int:
    return 0 if abs(number) >= 100 else 1 if abs(number) >= 10 else 2


def _columns(groups: Mapping[str, Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(dose for known in groups.values() for dose in known))


def _lines(metric: str, groups: Mapping[str, Mapping[str, str]], found: Mapping[str, Sequence[Cell]]
           ) -> Iterator[tuple[str, str, list[Number | None]]]:
    """(group, method, numbers dose by dose) of all that was measured."""
    for group, known in groups.items():
        at = [{one.method: one for one in found.get(known.get(dose, ""), ())} for dose in _columns(groups)]
        for name in sorted({name for some in at for name in some}):
            numbers = [some[name].numbers.get(metric) if name in some else None for some in at]
            if any(numbers):
                yield group, name, numbers


def _untouched(metric: str, groups: Mapping[str, Mapping[str, str]], found: Mapping[str, Sequence[Cell]]) -> list[float | None]:
    """The original's value at every dose."""
    some = [[one.numbers[metric].untouched for known in groups.values() for one in found.get(known.get(dose, ""), ())
             if metric in one.numbers] for dose in _columns(groups)]
    return [next(iter(values), None) for values in some]
