"""The figure of a search: the distance of every candidate in the order tried, the best so far, and the untouched model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from lethe.core.words import number
from lethe.report.colours import looks
from lethe.report.figure import Drawing, titled
from lethe.report.view import Case
from lethe.results.schema import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("number", "round", "method", "distance", "forgetting", "utility", "seconds", "chosen", "error")


def searches(case: Case) -> list[Drawing]:
    """One figure per line that was found by a search (its first seed)."""
    return [_drawn(line.label, found) for line in case.methods if (found := line.members[0].search)]


def _drawn(label: str, trials: Sequence[Trial]) -> Drawing:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 3.6), layout="constrained")
    _candidates(figure.subplots(), trials)
    title = _title(label, trials)
    titled(figure, title, 68)
    failed = sum(trial.distance is None for trial in trials)
    caption = ("Each sign is one run of a method, scored on a part of the data that the audits below do not use. Ringed: chosen."
               f"{f' {failed} candidates failed and are not drawn.' if failed else ''}")
    rows = [{**{key: getattr(trial, key) for key in COLUMNS},
             "settings": " ".join(f"{k}={v}" for k, v in trial.settings.items())} for trial in trials]
    return Drawing(f"search-{label}", title, caption, figure, rows)


def _title(label: str, trials: Sequence[Trial]) -> str:
    before = trials[0].distance
    chosen = next(trial for trial in trials if trial.chosen)
    if before is None or chosen.distance is None or chosen.distance >= before:
        return f"{label}: no candidate is better than the untouched model"
    return (f"{label}: {chosen.method} of {len(trials) - 1} candidates comes to {number(chosen.distance)}, the untouched "
            f"model to {number(before)}")


def _candidates(axes: Axes, trials: Sequence[Trial]) -> None:
    """A mark per candidate, the best so far as steps, the untouched model dashed, the chosen one ringed."""
    done = [(trial, trial.distance) for trial in trials if trial.distance is not None]
    if trials[0].distance is not None:
        axes.axhline(trials[0].distance, color="#666666", linestyle="--", linewidth=1, label="untouched")
    axes.step([trial.number for trial, _ in done], list(accumulate((far for _, far in done), min)), where="post",
              color="#222222", linewidth=1.2, label="best so far")
    names = list(dict.fromkeys(trial.method for trial, _ in done if trial.number))
    look = looks(names)
    for name in names:
        mine = [(trial.number, far) for trial, far in done if trial.method == name]
        axes.plot([place for place, _ in mine], [far for _, far in mine], look[name].marker, color=look[name].colour, label=name)
    for trial, far in done:
        if trial.chosen:
            axes.plot(trial.number, far, "o", markersize=14, markerfacecolor="none", markeredgecolor="#222222")
    axes.set_xlabel("candidate, in the order tried")
    axes.set_ylabel("distance on the selection part\n(lower is better)")
    axes.legend(fontsize=8, ncols=2, loc="upper left", bbox_to_anchor=(1, 1))
