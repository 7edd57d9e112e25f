"""Run a suite and keep its numbers: every method as a user runs it, one file each in `measured/`."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lethe.bench.suite import HERE, Suite, read
from lethe.results import measured
from lethe.results.measured import Number
from lethe.results.schema import Results, Row
from lethe.work.execute import carry_out
from lethe.work.options import Options


def run(name: str, overrides: Sequence[str], options: Options, place: Path | None = None) -> list[Path]:
    """Carry out the suite and write its numbers; the files that changed. Finished requests are not repeated.

    place  folder of the files; default: `measured/` beside the package
    """
    suite, options = read(name), replace(options, data_root=options.data_root or HERE)
    found: dict[str, list[Results]] = {}
    for problem, request in suite.problems(overrides):
        options.stop.check()
        options.say(f"{name}: {problem}, seed {request.seed}")
        report = carry_out(request, options)
        if report is not None:   # under torchrun only the first process has the results
            found.setdefault(problem, []).append(report.results)
    command = shlex.join(["lethe", "bench", name, *(one for one in overrides if not one.startswith("output="))])
    written = []
    for problem, results in found.items():
        for method, numbers in summary(f"{name}: {problem}", results, suite, command).items():
            known = measured.read(method, place)
            written.append(measured.write(measured.replaced(known, f"{name}: {problem}", numbers), place))
    return sorted(set(written))


def summary(problem: str, results: Sequence[Results], suite: Suite, command: str) -> dict[str, tuple[Number, ...]]:
    """The numbers of each method at its defaults (the first variant) over the results of all seeds."""
    rows: dict[str, list[Row]] = {}
    controls: dict[str, list[Row]] = {"original": [], "retrained": []}
    for result in results:
        for row in result.scenarios[0].subjects:
            if row.role in controls:
                controls[row.role].append(row)
            elif row.variant == 1:
                rows.setdefault(row.method, []).append(row)
    commit = str(results[0].versions.get("git", "unknown"))
    return {method: tuple(_number(problem, metric, mine, controls, command, commit) for metric in suite.keep)
            for method, mine in rows.items()}


def _number(problem: str, metric: str, rows: Sequence[Row], controls: Mapping[str, Sequence[Row]], command: str, commit: str
            ) -> Number:
    values = _values(metric, rows)
    untouched, retrained = (_mean(_values(metric, controls[role])) for role in ("original", "retrained"))
    return Number(
        problem=problem, metric=metric, mean=_mean(values), sd=_rounded(statistics.stdev(values)) if len(values) > 1 else None,
        seeds=len(values), failed=sum(row.error is not None for row in rows), untouched=untouched, retrained=retrained,
        command=command, commit=commit,
    )


def _values(metric: str, rows: Iterable[Row]) -> list[float]:
    found = (item.value for row in rows for item in row.evidence if item.metric == metric)
    return [value for value in found if value is not None and math.isfinite(value)]


def _mean(values: Sequence[float]) -> float | None:
    return _rounded(statistics.fmean(values)) if values else None


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
