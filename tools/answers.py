"""Draw what every method costs and how often it gives each of the three answers: the figure that the README opens with.

    python tools/answers.py [SUITE]      writes docs/answers.svg and docs/answers.csv from measured/

A point is one method, a mean over the problems of a suite that it was measured on. `tests/test_readme.py` compares the CSV with
measured/, so that neither is edited by hand.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.bench.page import Cell, cells
from lethe.core.files import csv_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[1]
CSV, SVG = ROOT / "docs" / "answers.csv", ROOT / "docs" / "answers.svg"
ANSWERS = ("forgotten", "useful", "indistinguishable")
MOST = 5   # problems that a method must have been measured on to lead
TITLES = {"forgotten": "Forgotten", "useful": "Useful", "indistinguishable": "Indistinguishable from retraining"}


def rows(suite: str) -> list[dict[str, str]]:
    """One line per method: problems, cost in retrainings, share of runs with each answer. A run without a model has no."""
    by: dict[str, list[Cell]] = {}
    for some in cells(suite).values():
        for cell in some:
            by.setdefault(cell.method, []).append(cell)
    found = []
    for method, mine in sorted(by.items()):
        costs = [cost for cell in mine if (cost := cell.mean("time")) is not None]
        shares = {answer: [share for cell in mine if (share := _share(cell, answer)) is not None] for answer in ANSWERS}
        if costs and all(shares.values()):
            found.append({"method": method, "problems": str(len(mine)), "cost": f"{statistics.fmean(costs):.4g}",
                          **{answer: f"{statistics.fmean(some):.4g}" for answer, some in shares.items()}})
    return found


def _share(cell: Cell, answer: str) -> float | None:
    """Share of the runs with this answer; None where no test could have given it."""
    one = cell.numbers.get(answer)
    if one is None:
        return None
    return (one.mean or 0.0) * one.seeds / (one.seeds + one.failed) if one.seeds + one.failed else None


def retrained(suite: str) -> dict[str, float]:
    """Share of retrained models with each answer, a mean over the problems."""
    first = [some[0] for some in cells(suite).values()]
    found = {answer: [one.retrained for cell in first if (one := cell.numbers.get(answer)) and one.retrained is not None]
             for answer in ANSWERS}
    return {answer: statistics.fmean(some) for answer, some in found.items()}


def leading(lines: Sequence[Mapping[str, str]], answer: str) -> list[Mapping[str, str]]:
    """Those measured on most problems that no cheaper one equals, the cheapest first."""
    best, found = 0.0, []
    for one in sorted(lines, key=lambda one: (float(one["cost"]), -float(one[answer]))):
        if float(one[answer]) > best + 1e-9 and int(one["problems"]) >= MOST:
            best, found = float(one[answer]), [*found, one]
    return found


def drawn(lines: Sequence[Mapping[str, str]], controls: Mapping[str, float], title: str) -> str:
    """The figure as SVG: three panels of cost against the share of runs, with retrained models at a cost of 1."""
    from matplotlib.figure import Figure

    from lethe.report.figure import drawing, svg, titled

    with drawing():
        figure = Figure(figsize=(11.5, 4.2), layout="constrained")
        for axes, answer in zip(figure.subplots(1, 3, sharey=True), ANSWERS, strict=True):
            _panel(axes, lines, answer, controls[answer])
        figure.axes[0].set_ylabel("runs with the answer yes, %\n(higher is better)")
        titled(figure, title, 110)
        return svg(figure, title)


def _panel(axes: Axes, lines: Sequence[Mapping[str, str]], answer: str, control: float) -> None:
    """One answer. Blue: no cheaper method gives it as often; square: renew; hollow: measured on fewer problems."""
    from lethe.report.colours import RETRAINED

    ahead = leading(lines, answer)
    places = {one["method"]: (float(one["cost"]), 100 * float(one[answer])) for one in lines}
    axes.plot(*zip(*(places[one["method"]] for one in ahead), strict=True), color="#bbbbbb", drawstyle="steps-post", zorder=1)
    named: list[tuple[float, float]] = []
    for one in lines:
        ours, leads, few = one["method"] == "renew", one in ahead, int(one["problems"]) < MOST
        colour = "#D55E00" if ours else "#4477AA" if leads else "#999999"
        axes.plot(*places[one["method"]], "s" if ours else "o", markersize=8 if ours else 5, color=colour,
                  markerfacecolor="none" if few else colour, zorder=2)
        if ours or leads:
            crowded = any(abs(math.log10(x / places[one["method"]][0])) < 0.3 and abs(y - places[one["method"]][1]) < 6
                          for x, y in [*named, *([(1.0, 100 * control)] if places[one["method"]][0] > 1 else [])])
            axes.annotate(one["method"], places[one["method"]], fontsize=8, xytext=(5, -11) if crowded else (-4, 5),
                          ha="left" if crowded else "right", textcoords="offset points")
            named.append(places[one["method"]])
    axes.plot(1, 100 * control, "D", color=RETRAINED, markersize=8, zorder=3)
    axes.annotate("retrained", (1, 100 * control), fontsize=8, xytext=(7, -3), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_xlim(0.02, 12)
    axes.set_xticks([0.03, 0.1, 0.3, 1, 3, 10], ["0.03", "0.1", "0.3", "1", "3", "10"])
    axes.set_xticks([], minor=True)
    axes.set_title(TITLES[answer], fontsize=11)
    axes.set_xlabel("cost, in retrainings\n(lower is better)")
    axes.set_ylim(-4, 108)


def headline(lines: Sequence[Mapping[str, str]], controls: Mapping[str, float]) -> str:
    """The finding: how often the best of those at less than half of a retraining is like one."""
    cheap = [one for one in lines if float(one["cost"]) < 0.5 and int(one["problems"]) >= MOST]
    best, second = sorted(cheap, key=lambda one: -float(one["indistinguishable"]))[:2]
    return (f"Below half of a retraining, {best['method']} is most often like one: "
            f"{100 * float(best['indistinguishable']):.0f} % of runs (next: {100 * float(second['indistinguishable']):.0f} %; "
            f"retrained: {100 * controls['indistinguishable']:.0f} %)")


def main(suite: str) -> None:
    """Write both."""
    lines, controls = rows(suite), retrained(suite)
    CSV.write_text(csv_text(lines), encoding="utf-8")
    SVG.write_text(drawn(lines, controls, headline(lines, controls)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "strangers")
