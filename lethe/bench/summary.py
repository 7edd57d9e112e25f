"""From what units found to what is kept: numbers over the seeds, and why runs ended early. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lethe.results.measured import Number, Reason

if TYPE_CHECKING:
    from lethe.bench.unit import Finding


def numbers(problem: str, found: Sequence[Finding], keep: Sequence[str], command: str) -> tuple[Number, ...]:
    """The kept metrics of one method on one problem over its seeds; of those that nobody reports there, none."""
    failed = sum(one.ending in ("failed", "unchanged", "cannot run") for one in found)
    made = []
    for metric in keep:
        values = _of(metric, (one.values for one in found))
        untouched = _mean(_of(metric, (one.untouched for one in found)))
        retrained = _mean(_of(metric, (one.retrained for one in found)))
        if not values and untouched is None:
            continue
        made.append(Number(
            problem=problem, metric=metric, mean=_mean(values),
            sd=_rounded(statistics.stdev(values)) if len(values) > 1 else None, seeds=len(values), failed=failed,
            untouched=untouched, retrained=retrained, command=command,
            commit=next((one.commit for one in found if one.commit != "unknown"), "unknown")))
    return tuple(made)


def reasons(problem: str, found: Sequence[Finding]) -> tuple[Reason, ...]:
    """Why runs ended otherwise than the method meant, by kind of ending."""
    by: dict[str, list[Finding]] = {}
    for one in found:
        if one.ending is not None:
            by.setdefault(one.ending, []).append(one)
    return tuple(Reason(problem=problem, kind=some[0].ending or "failed", seeds=tuple(one.seed for one in some), text=some[0].why)
                 for some in by.values())


def _of(metric: str, all_values: Iterable[Mapping[str, float]]) -> list[float]:
    return [values[metric] for values in all_values if metric in values]


def _mean(values: Sequence[float]) -> float | None:
    return _rounded(statistics.fmean(values)) if values else None


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
