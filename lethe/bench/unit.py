"""One unit of a benchmark: one method on one original, as a user runs it, or several that share the audits of the original. Whole
in itself, so any process may do it.

Its values are those of the evidence, and what every row has (`FACTS`). A method that fails is a finding like any other.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from lethe.core.config import build
from lethe.core.guard import FOLDER as GUARD
from lethe.core.names import folder_name
from lethe.core.outcome import UNSURE
from lethe.core.task import Recipe
from lethe.errors import DataError, LetheError, NeedsUnmet
from lethe.results.folder import models_folder
from lethe.results.schema import Cost, Results, Row, Sample
from lethe.work.execute import carry_out
from lethe.work.job import resolve
from lethe.work.open import read
from lethe.work.options import Options
from lethe.work.request import Request

FACTS = ("forgotten", "useful", "indistinguishable", "points lost", "lost at least", "margin", "time", "cost", "seconds",
         "memory", "artefact")   # beside metrics
Ending = Literal["failed", "ended", "unchanged", "cannot run", "unsure"]


@dataclass(frozen=True)
class Unit:
    """What is to be done. methods: with their options; none: only the original and the retrained models."""

    problem: str
    request: Request
    methods: tuple[Mapping[str, Any], ...] = ()

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of the methods."""
        return tuple(str(method["name"]) for method in self.methods)

    @property
    def name(self) -> str:
        """For the terminal."""
        return f"{self.problem}, seed {self.request.seed}: {', '.join(self.asked) or 'original and retrained models'}"


@dataclass(frozen=True)
class Setting:
    """What every unit shares: where data lie, and whether finished units are repeated."""

    data_root: Path | None
    command: str
    again: bool = False
    allow_pickle: bool = False
    cache: Path | None = None
    export: bool = False   # also save what a method makes, to know how large it is


@dataclass(frozen=True)
class Finding:
    """What a unit found.

    values, untouched, retrained  metric -> value: of the method, of the original, mean of the retrained models
    cost, retraining              what the method took, and one of the retrained models in the mean
    ending, why                   how it ended otherwise than the method meant, or as it meant and nobody can tell whether soundly
    able                          of a unit without a method: those that the problem can serve
    samples                       pictures for a person to look at, chosen by seed
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
    samples: tuple[Sample, ...] = ()
    commit: str = "unknown"
    absent: str = ""   # why the problem cannot be measured here: its data are not there


    def beside(self, bare: Finding) -> Finding:
        """Itself with the time as a share of a retraining as `bare` measured it, the unit that trained the retrained models."""
        share = self.cost.of(bare.retraining)
        return self if share is None else replace(self, values={**self.values, "time": share})


def measure(unit: Unit, setting: Setting) -> list[Finding]:
    """Carry out a unit on one thread; a finished one is read from its run folder. One finding a method, or that without any."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured(unit, setting)
    finally:
        torch.set_num_threads(threads)


def _measured(unit: Unit, setting: Setting) -> list[Finding]:
    request = replace(unit.request, method=unit.methods)
    options = Options(setting.data_root, setting.command, setting.again, setting.export, setting.allow_pickle,
                      cache=setting.cache, page=False)
    bare = Finding(unit.problem, request.seed)
    try:
        report = carry_out(request, options)
        able = () if unit.methods else _able(unit.request, options)
    except LetheError as error:
        if unit.methods:   # what one of them needs, or what its check before work says
            return [replace(bare, method=name, ending="cannot run", why=str(error)) for name in unit.asked]
        if isinstance(error, (DataError, NeedsUnmet)):
            return [replace(bare, absent=str(error))]
        raise
    assert report is not None, "units run alone"
    results = report.results
    bare = replace(_bare(bare, results), able=able)
    kept = models_folder(Path(request.output) / results.id, results.scenarios[0].name) if setting.export else None
    made = [row for row in results.scenarios[0].subjects if row.role == "method"]
    return [_found(replace(bare, method=name), results, row, kept) for name, row in zip(unit.asked, made, strict=True)] or [bare]


def artefact(place: Path, row: Row) -> float | None:
    """Megabytes of what a method saved: a guard without the weights that it leaves alone, else everything; None: nothing."""
    files = [path for path in (place / folder_name(row.name)).rglob("*")
             if path.is_file() and (row.kind != "guard" or GUARD in path.parts)]
    return sum(path.stat().st_size for path in files) / 1e6 if files else None


def _able(request: Request, options: Options) -> tuple[str, ...]:
    """The methods of the request that its task can serve, each once, at the first of its settings."""
    plan = read(resolve(request, options), options)
    runs = [run for chosen in plan.runs.values() for run in chosen]
    return tuple(dict.fromkeys(run.method for run in runs))


def _bare(found: Finding, results: Results) -> Finding:
    """What stands in the results beside methods: the original and the retrained models."""
    case = results.scenarios[0]
    before, after = ([row for row in case.subjects if row.role == role] for role in ("original", "retrained"))
    return replace(found, untouched=dict(_values(before)), retrained=dict(_values(after)), retraining=case.retraining,
                   commit=str(results.versions.get("git", "unknown")))


def _found(found: Finding, results: Results, row: Row, kept: Path | None) -> Finding:
    """What a row says of its method. kept: where models were saved, if they were."""
    facts = {"cost": _cost(results, row), "seconds": row.cost.cpu_seconds, "memory": row.cost.peak_memory_mb,
             "artefact": None if kept is None else artefact(kept, row)}
    values = {**dict(_values([row])), **{name: value for name, value in facts.items() if value is not None}}
    found = replace(found, values=values, cost=row.cost, samples=row.samples)
    if row.unchanged:
        return replace(found, ending="unchanged", why=row.error or "")
    if row.error:
        return replace(found, ending="failed", why=row.error)
    if row.fall is not None:
        return replace(found, ending="ended", why=next((note for note in row.notes if "watchdog" in note), row.conclusion.text))
    unsure = next((note for note in row.notes if note.startswith(UNSURE)), "")
    return replace(found, ending="unsure", why=unsure) if unsure else found


def _cost(results: Results, row: Row) -> float | None:
    """Steps or examples of a run in retrainings, whichever is more; None without a recipe of epochs and batches."""
    recipe, sizes = results.config.get("recipe") or {}, results.scenarios[0].sizes
    plan = build(Recipe, recipe) if recipe and not recipe.get("code") else None
    if plan is None or not sizes.get("retain"):
        return None
    passes = row.cost
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


