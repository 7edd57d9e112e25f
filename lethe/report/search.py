"""The figure of a search: the distance of every candidate in the order tried, beside the untouched model; forgetting against
utility, with the candidates that no other beats (Pareto front); and these in a table."""

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

COLUMNS = ("number", "round", "method", "distance", "forgetting", "utility", "cost", "seconds", "front", "chosen", "error")

FRONT = (" Right: strong signs are beaten by no other in forgetting, utility and cost (Pareto front); larger ones cost more.")


def searches(case: Case) -> list[Drawing]:
    """One figure per line that was found by a search (its first seed)."""
    return [_drawn(line.label, found) for line in case.methods if (found := line.members[0].search)]


def _drawn(label: str, trials: Sequence[Trial]) -> Drawing:
    from matplotlib.figure import Figure

    fronted = any(trial.front for trial in trials)   # searches of before schema 5 have none
    figure = Figure(figsize=(9.8 if fronted else 7.4, 3.6), layout="constrained")
    axes = figure.subplots(1, 2 if fronted else 1, squeeze=False)[0]
    _candidates(axes[0], trials)
    if fronted:
        _front(axes[1], trials)
    else:
        axes[0].legend(fontsize=8, ncols=2, loc="upper left", bbox_to_anchor=(1, 1))
    title = _title(label, trials)
    titled(figure, title, 68)
    failed = sum(trial.distance is None for trial in trials)
    caption = ("Each sign is one run of a method, scored on a part of the data that the audits below do not use. Ringed: chosen."
               f"{FRONT if fronted else ''}"
               f"{f' {failed} candidates failed and are not drawn.' if failed else ''}")
    rows = [{**{key: getattr(trial, key) for key in COLUMNS}, "settings": options(trial)} for trial in trials]
    return Drawing(f"search-{label}", title, caption, figure, rows)


def front(case: Case) -> list[tuple[str, list[Trial]]]:
    """Of every search the candidates that no other beats in forgetting, utility and cost, the one that forgets best first."""
    return [(line.label, sorted(found, key=lambda one: (one.forgetting or 0.0, one.cost or 0.0))) for line in case.methods
            if (found := [trial for trial in line.members[0].search if trial.front])]


def options(trial: Trial) -> str:
    """'lr=0.01 average=ema'; empty where all are as published."""
    return " ".join(f"{key}={value}" for key, value in {**trial.settings, **trial.modifiers}.items())


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


def _front(axes: Axes, trials: Sequence[Trial]) -> None:
    """Forgetting against utility, larger for what costs more; filled where no other is better in all three."""
    done = [(trial, trial.forgetting, trial.utility) for trial in trials
            if trial.forgetting is not None and trial.utility is not None]
    look = looks(list(dict.fromkeys(trial.method for trial, *_ in done if trial.number)))
    most = max((trial.cost or 0.0 for trial, *_ in done), default=0.0) or 1.0
    for trial, forgetting, utility in done:
        shape, colour = (look[trial.method].marker, look[trial.method].colour) if trial.number else ("x", "#666666")
        axes.scatter([forgetting], [utility], s=24 + 90 * (trial.cost or 0.0) / most, marker=shape,
                     color=colour, alpha=1.0 if trial.front else 0.35, label="_")
        if trial.chosen:
            axes.plot(forgetting, utility, "o", markersize=16, markerfacecolor="none", markeredgecolor="#222222")
    names = {trial.method: None for trial, *_ in done if trial.front and trial.number}
    for name in names:
        axes.scatter([], [], marker=look[name].marker, color=look[name].colour, label=name)
    axes.scatter([], [], marker="x", color="#666666", label="untouched")
    axes.set_xlabel("forgetting: distance on the forget set\n(lower is better)")
    axes.set_ylabel("utility: distance elsewhere\n(lower is better)")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), title="on the front")
