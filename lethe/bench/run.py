"""Run a suite and keep its numbers: every method as a user runs it, one file each in `measured/`.

The work is cut into units (`lethe.bench.unit`), which any number of processes share. First the originals and the retrained
models of every problem, then method by method, each on all problems: what is cut off leaves whole methods. The file of a method
is written as soon as all seeds of a problem are there; a repeated command reads finished units from their run folders.
"""

from __future__ import annotations

import fnmatch
import itertools
import multiprocessing
import shlex
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lethe.bench.grid import grids
from lethe.bench.suite import HERE, Suite, read
from lethe.bench.summary import numbers, reasons
from lethe.bench.unit import FACTS, Finding, Setting, Unit, measure
from lethe.core.catalogue import entries
from lethe.errors import RequestError, WorkerDied, nearest
from lethe.results import measured
from lethe.work.options import Options

BEAT = 0.5   # seconds between two looks at the stop token


@dataclass(frozen=True)
class Ran:
    """What a suite left. written: the files; absent: problem -> why it could not be measured here."""

    written: list[Path] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


def run(name: str, overrides: Sequence[str], options: Options, place: Path | None = None, workers: int = 1) -> Ran:
    """Carry out the suite and write its numbers. Finished units are not repeated.

    place    folder of the files; default: `measured/` beside the package
    workers  processes, one thread each; more of them give the same bits as one
    """
    suite = read(name)
    bare = [Unit(problem, request) for problem, request in suite.problems(overrides)]
    require_reported(suite, bare)
    command = shlex.join(["lethe", "bench", name, *(one for one in overrides if not one.startswith("output="))])
    setting = Setting(options.data_root or HERE, options.command, options.again, options.allow_pickle, options.cache,
                      "artefact" in suite.keep)
    with Crew(setting, options, workers) as crew:
        made = {(found.problem, found.seed): found for found in crew.done(bare)}
        absent = {found.problem: found.absent for found in made.values() if found.absent}
        for problem, why in absent.items():
            options.warn(f"{name}: {problem} is left out: {why}")
        _require_found(suite, [found for found in made.values() if not found.absent])
        units = _units([unit for unit in bare if unit.problem not in absent], made, suite.together)
        seeds = Counter((unit.problem, name) for unit in units for name in unit.asked)
        held: dict[tuple[str, str], list[Finding]] = {}
        written, drew = set(), []
        for found in crew.done(units):
            drew.append(found)
            mine = held.setdefault((found.problem, found.method), [])
            mine.append(found.beside(made[found.problem, found.seed]))
            if len(mine) == seeds[found.problem, found.method]:
                title, some = f"{name}: {found.problem}", sorted(mine, key=lambda one: one.seed)
                known = measured.read(found.method, place)
                written.add(measured.write(measured.replaced(
                    known, title, numbers(title, some, suite.keep, command), reasons(title, some)), place))
    if suite.pictures and not any(one.startswith("method") for one in overrides):   # of some methods alone it would be no grid
        written.update(grids(name, suite, drew, place or measured.folder()))
    return Ran(sorted(written), absent)


def _units(bare: Sequence[Unit], made: dict[tuple[str, int], Finding], together: bool) -> list[Unit]:
    """Every method of every problem and seed: methods outside, problems in the order of the suite inside; or all of them
    together, seed by seed."""
    chosen = [replace(unit, methods=tuple(_methods(unit, made[unit.problem, unit.request.seed]))) for unit in bare]
    if together:
        return sorted((unit for unit in chosen if unit.methods), key=lambda unit: unit.request.seed)
    asked = [replace(unit, methods=(method,)) for unit in chosen for method in unit.methods]
    order = list(dict.fromkeys(unit.asked for unit in asked))
    return sorted(asked, key=lambda unit: order.index(unit.asked))


def _methods(unit: Unit, made: Finding) -> list[dict[str, Any]]:
    """The first variant of every method that a unit's request names; of `all`, those that the problem can serve."""
    found: dict[str, dict[str, Any]] = {}
    for one in unit.request.methods:
        for method in ({"name": name} for name in made.able) if one["name"] == "all" else [one]:
            found.setdefault(str(method["name"]), method)
    return list(found.values())


def require_reported(suite: Suite, units: Sequence[Unit]) -> None:
    """RequestError for a metric to keep that no audit reports, or none of those that the requests of the whole suite name, where
    each names its own."""
    audits = list(entries("audits").values())
    named = [[entry for entry, _ in unit.request.asked_audits] for unit in units]
    ways = {"no audit": audits}
    if all(named) and {unit.problem for unit in units} == set(suite.requests):
        ways["no audit of these requests"] = [entry for some in named for entry in some]
    for nobody, asked in ways.items():
        known = {*FACTS, *(metric for entry in asked for metric in entry.facts.get("metrics", ()))}
        for metric in suite.keep:
            if not any(fnmatch.fnmatch(metric, one) for one in known):
                raise RequestError(f"keep names {metric!r}, which {nobody} reports{nearest(metric, known)}, so nothing was "
                                   f"started. lethe audits lists the metrics; every row has {', '.join(FACTS)}.")


def _require_found(suite: Suite, made: Sequence[Finding]) -> None:
    """The same for one that no audit of these requests reports, as soon as the originals of all problems are measured."""
    if {one.problem for one in made} != set(suite.requests):
        return   # a problem that was left out may report it
    found = {*FACTS, *itertools.chain.from_iterable(one.untouched for one in made)}
    for metric in suite.keep:
        if metric not in found:
            raise RequestError(f"keep names {metric!r}, which no audit of these requests reports{nearest(metric, found)}, so no "
                               f"method was measured. Reported: {', '.join(sorted(found))}.")


class Crew:
    """Processes that do units; with one worker this process does them."""

    def __init__(self, setting: Setting, options: Options, workers: int) -> None:
        self.setting, self.options, self.workers = setting, options, workers
        self.pool = None if workers == 1 else ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_alone)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)   # a unit that is being done is finished

    def done(self, units: Sequence[Unit]) -> Iterator[Finding]:
        """The finding of every unit, as soon as it is known."""
        if self.pool is None:
            for number, unit in enumerate(units, 1):
                self.options.stop.check()
                self._say(number, units, unit)
                yield from measure(unit, self.setting)
            return
        waiting: dict[Future[list[Finding]], Unit] = {self.pool.submit(measure, unit, self.setting): unit for unit in units}
        number = 0
        while waiting:
            self.options.stop.check()
            ended, _ = wait(waiting, timeout=BEAT, return_when=FIRST_COMPLETED)
            for future in ended:
                number, unit = number + 1, waiting.pop(future)
                self._say(number, units, unit)
                try:
                    yield from future.result()
                except BrokenProcessPool:
                    raise WorkerDied(f"a process died during {unit.name} (out of memory, or killed), so the suite is not "
                                     "complete. Repeat the command: finished units are not repeated.") from None

    def _say(self, number: int, units: Sequence[Unit], unit: Unit) -> None:
        self.options.say(f"{number}/{len(units)}  {unit.name}")


def _alone() -> None:
    """A worker: Ctrl-C is for the process that leads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
