"""The leaderboard: every model of a scenario in one table, mean and standard deviation over seeds, with its cost.

The controls stand in the same table: the untouched model, a fresh retrained model, and the floor, which is what retrained models
have among themselves. No method can be asked to be nearer to retraining than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Literal

from lethe.core.evidence import RETRAINED, Ending, Role
from lethe.core.files import csv_text
from lethe.report.view import Case, Column, Line, cases
from lethe.results.schema import Results

FLOOR = "floor (retrained among themselves)"


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of n numbers; None where there are too few."""

    mean: float | None
    sd: float | None
    n: int


@dataclass(frozen=True)
class Standing:
    """One model of the leaderboard. Spreads are over seeds, of the floor over retrained models."""

    scenario: str
    model: str
    role: Role | Literal["floor"]
    seeds: int
    verdict: Ending | Literal[""]
    seconds: Spread
    of_retraining: float | None
    metrics: dict[str, Spread]


def standings(results: Results) -> list[Standing]:
    """The leaderboard of every scenario, one below the other."""
    return [entry for case in cases(results) for entry in entries(case)]


def entries(case: Case, columns: Iterable[Column] | None = None) -> list[Standing]:
    """The leaderboard of one scenario: untouched, retrained, the floor, then the methods as the report orders them."""
    wanted = list(columns if columns is not None else case.columns.values())
    entries = [_entry(case, line, wanted) for line in case.lines]
    floor = {_name(column): Spread(column.yardstick.mean, column.yardstick.sd, column.yardstick.n) for column in wanted
             if column.yardstick is not None and column.yardstick.kind == RETRAINED}
    if floor:
        seconds = case.scenario.references.seconds_each
        cost = _spread([] if seconds is None else [seconds])
        after = sum(line.role != "method" for line in case.lines)
        entries.insert(after, Standing(case.name, FLOOR, "floor", case.references, "", cost, None, floor))
    return entries


def to_leaderboard_csv(results: Results) -> str:
    """The leaderboard as a wide table: for each metric METRIC_mean, METRIC_sd and METRIC_n."""
    table = standings(results)
    names = list(dict.fromkeys(name for entry in table for name in entry.metrics))
    lines = []
    for entry in table:
        line = {key: getattr(entry, key) for key in ("scenario", "model", "role", "seeds", "verdict", "of_retraining")}
        line |= {"seconds_mean": entry.seconds.mean, "seconds_sd": entry.seconds.sd}
        for name in names:
            spread = entry.metrics.get(name)
            line |= {f"{name}_{key}": getattr(spread, key, None) for key in ("mean", "sd", "n")}
        lines.append(line)
    return csv_text(lines)


def to_leaderboard_json(results: Results) -> list[dict[str, object]]:
    """The leaderboard as JSON-ready data."""
    return [asdict(entry) for entry in standings(results)]


def _entry(case: Case, line: Line, columns: Sequence[Column]) -> Standing:
    metrics = {}
    for column in columns:
        cell = line.cells.get(column.key)
        values = [item.value for item in cell.items if item.value is not None] if cell else []
        if values:
            metrics[_name(column)] = _spread(values)
    times = [row.cost.seconds for row in line.members if row.cost.seconds is not None]
    return Standing(case.name, line.label, line.role, len(line.members), line.verdict, _spread(times), line.ratio, metrics)


def _name(column: Column) -> str:
    return column.metric if column.metric.startswith(column.audit) else f"{column.audit}.{column.metric}"


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean(values) if values else None, stdev(values) if len(values) > 1 else None, len(values))
