"""One unit of a benchmark: one method on one original, as a user runs it. Whole in itself, so any process may do it.

Its values are those of the evidence, and what every row has (`FACTS`). A method that fails is a finding like any other.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from lethe.core.config import build
from lethe.core.outcome import UNSURE
from lethe.core.task import Recipe
from lethe.errors import DataError, LetheError, NeedsUnmet
from lethe.results.schema import Cost, Results, Row
from lethe.work.execute import carry_out
from lethe.work.job import resolve
from lethe.work.open import read
from lethe.work.options import Options
from lethe.work.request import Request

FACTS = ("forgotten", "useful", "indistinguishable", "points lost", "lost at least", "margin", "time", "cost")   # beside metrics
Ending = Literal["failed", "ended", "unchanged", "cannot run", "unsure"]


@dataclass(frozen=True)
class Unit:
    """What is to be done. method: with its options; None: only the original and the retrained models."""

    problem: str
    request: Request
    method: Mapping[str, Any] | None = None

    @property
    def asked(self) -> str:
        """The method's name; empty without one."""
        return str(self.method["name"]) if self.method else ""

    @property
    def name(self) -> str:
        """For the terminal."""
        return f"{self.problem}, seed {self.request.seed}: {self.asked or 'original and retrained models'}"


@dataclass(frozen=True)
class Setting:
    """What every unit shares: where data lie, and whether finished units are repeated."""

    data_root: Path | None
    command: str
    again: bool = False
    allow_pickle: bool = False
    cache: Path | None = None


@dataclass(frozen=True)
class Finding:
    """What a unit found.

    values, untouched, retrained  metric -> value: of the method, of the original, mean of the retrained models
    cost, retraining              what the method took, and one of the retrained models in the mean
    ending, why                   how it ended otherwise than the method meant, or as it meant and nobody can tell whether soundly
    able                          of a unit without a method: those that the problem can serve
    """

    problem: str
    seed: int
    method: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    untouched: Mapping[str, float] = field(default_factory=dict)
    retrained: Mapping[str, float] = field(default_factory=dict)
    ending: Ending | None = None
    why: str = ""
    cost: Cost = field(default_factory=Cost)
    retraining: Cost = field(default_factory=Cost)
    able: tuple[str, ...] = ()
    commit: str = "unknown"
    absent: str = ""   # why the problem cannot be measured here: its data are not there


    def beside(self, bare: Finding) -> Finding:
        """Itself with the time as a share of a retraining as `bare` measured it, the unit that trained the retrained models."""
        share = self.cost.of(bare.retraining)
        return self if share is None else replace(self, values={**self.values, "time": share})


def measure(unit: Unit, setting: Setting) -> Finding:
    """Carry out a unit on one thread; a finished one is read from its run folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured(unit, setting)
    finally:
        torch.set_num_threads(threads)


def _measured(unit: Unit, setting: Setting) -> Finding:
    request = replace(unit.request, method=(unit.method,) if unit.method else ())
    options = Options(setting.data_root, setting.command, setting.again, allow_pickle=setting.allow_pickle, cache=setting.cache,
                      page=False)
    found = Finding(unit.problem, request.seed, unit.asked)
    try:
        report = carry_out(request, options)
        able = () if unit.method else _able(unit.request, options)
    except LetheError as error:
        if unit.method:   # what it needs, or what its check before work says
            return replace(found, ending="cannot run", why=str(error))
        if isinstance(error, (DataError, NeedsUnmet)):
            return replace(found, absent=str(error))
        raise
    assert report is not None, "units run alone"
    return replace(_found(found, report.results), able=able)


def _able(request: Request, options: Options) -> tuple[str, ...]:
    """The methods of the request that its task can serve, each once, at the first of its settings."""
    plan = read(resolve(request, options), options)
    runs = [run for chosen in plan.runs.values() for run in chosen]
    return tuple(dict.fromkeys(run.method for run in runs))


def _found(found: Finding, results: Results) -> Finding:
    case = results.scenarios[0]
    rows: dict[str, list[Row]] = {"original": [], "retrained": [], "method": []}
    for row in case.subjects:
        rows[row.role].append(row)
    values = {role: dict(_values(some)) for role, some in rows.items()}
    if (share := _cost(results, rows["method"])) is not None:
        values["method"]["cost"] = share
    found = replace(found, values=values["method"], untouched=values["original"], retrained=values["retrained"],
                    retraining=case.retraining, commit=str(results.versions.get("git", "unknown")))
    if not found.method:
        return found
    row = rows["method"][0]
    found = replace(found, cost=row.cost)
    if row.unchanged:
        return replace(found, ending="unchanged", why=row.error or "")
    if row.error:
        return replace(found, ending="failed", why=row.error)
    if row.fall is not None:
        return replace(found, ending="ended", why=next((note for note in row.notes if "watchdog" in note), row.conclusion.text))
    unsure = next((note for note in row.notes if note.startswith(UNSURE)), "")
    return replace(found, ending="unsure", why=unsure) if unsure else found


def _cost(results: Results, rows: Sequence[Row]) -> float | None:
    """Steps or examples of a run in retrainings, whichever is more; None without a recipe of epochs and batches."""
    recipe, sizes = results.config.get("recipe") or {}, results.scenarios[0].sizes
    plan = build(Recipe, recipe) if recipe and not recipe.get("code") else None
    if plan is None or not rows or not sizes.get("retain"):
        return None
    passes = rows[0].cost
    examples, steps = plan.epochs * sizes["retain"], plan.epochs * math.ceil(sizes["retain"] / plan.batch_size)
    return max((passes.examples or 0) / examples, (passes.steps or 0) / steps)


def _values(rows: Iterable[Row]) -> Iterator[tuple[str, float]]:
    """The mean of every value over rows; answers are 1 for yes, 0 for no, and missing where they cannot be given."""
    held: dict[str, list[float | None]] = {}
    for row in rows:
        for item in row.evidence:
            held.setdefault(item.metric, []).append(item.value)
        if row.answers is not None:
            for name in ("forgotten", "useful", "indistinguishable"):
                reply = getattr(row.answers, name).answer
                held.setdefault(name, []).append(None if reply == "cannot be judged" else float(reply == "yes"))
            useful = row.answers.useful
            for name, share in (("points lost", useful.lost), ("lost at least", useful.low), ("margin", useful.margin)):
                held.setdefault(name, []).append(None if share is None else 100 * share)
    for metric, values in held.items():
        known = [value for value in values if value is not None and math.isfinite(value)]
        if known:
            yield metric, statistics.fmean(known)


