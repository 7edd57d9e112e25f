"""The job: a request, or a call from Python, resolved once.

    request.yaml ─ read ─> Request ─ resolve ─> Job ─ open ─> scenes ─ forget ─> made ─ audit ─> results ─> page, ledger

Every name has become a record, every mapping a checked config, every margin is declared. After this nothing is looked up
again: the later steps take what they need from the job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from lethe.core import catalogue
from lethe.core.config import build, digest, plain
from lethe.core.evidence import Depth, Objective
from lethe.core.registry import Audit, Method
from lethe.core.task import Recipe, Task
from lethe.data.context import Context
from lethe.errors import LetheError, RequestError
from lethe.models.opened import Opened, Sections
from lethe.pools.backends import Strategy
from lethe.pools.choose import Wish
from lethe.pools.choose import asked as wish
from lethe.results.ladder import Until
from lethe.results.policy import Policy
from lethe.results.rows import declared
from lethe.results.schema import Declared
from lethe.train.apply import everything, method_of, require, unmet
from lethe.train.loop import Modifiers, Settings
from lethe.train.modifiers import resolved
from lethe.train.watchdog import Watchdog
from lethe.work.options import Options
from lethe.work.request import ALL, AuditPlan, Counts, Request

Asked = str | Mapping[str, Any] | object   # a method or an audit: name, {name: …, option: …}, or its config


@dataclass(frozen=True)
class Run:
    """One method with one seed.

    name      names its row: the method; with several configurations or seeds also which
    label     what runs that differ only in their seed share
    variant   1 for the first configuration of a method in the job, 2 for the second, …
    optional  requested by `all`: left out where the task lacks what it needs
    obstacle  why the method itself refuses this task at its defaults, where `all` requested it: its row says so
    """

    record: Method
    cfg: object
    name: str
    label: str
    variant: int
    seed: int
    optional: bool = False
    obstacle: str = ""

    @property
    def method(self) -> str:
        """The method's name."""
        return self.record.name


@dataclass(frozen=True)
class Judging:
    """How models are judged.

    audits    records with their configs         named     whether they were requested by name: then they run at any depth
    asked     the request's own words        margins   equivalence margins of the request, by metric; `declared` has those of
              the metrics too, and since when
    max_loss  the largest loss of the score that does not matter; None: by the share of data to be forgotten
    """

    asked: AuditPlan
    audits: tuple[tuple[Audit, object], ...]
    named: bool
    declared: Declared
    margins: Mapping[str, float]
    depth: Depth
    strategy: Strategy
    max_loss: float | None
    references: int
    shadows: int
    neighbours: int

    @property
    def reach(self) -> Depth:
        """The depth up to which audits run: those that were requested by name run at any."""
        return "deep" if self.named else self.depth

    @property
    def counts(self) -> dict[str, int]:
        """How many models judge, by kind."""
        return {name: getattr(self, name) for name in Counts._fields}

    def of(self, model: nn.Module) -> Judging:
        """The same with as many models as are usual for one of this size, where the request leaves it open."""
        return replace(self, **self.asked.counts(sum(p.numel() for p in model.parameters()))._asdict())


@dataclass(frozen=True)
class Case:
    """What one scenario forgets.

    selection  as the request says it; None: the data came divided      wish  what it asks of the trained model, if anything
    """

    name: str
    selection: Any
    wish: Wish | None


@dataclass(frozen=True)
class Source:
    """Where the tasks of a job come from: the family's reader, what it reads, and what every scenario forgets.

    data   the family's config of `data:`
    """

    family: str
    read: Callable[[Sections, Context], Opened]
    sections: Sections
    data: type
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Climb:
    """A ladder that is wanted in place of named methods. within: what all of its runs may cost, in retrainings."""

    until: Until
    within: float


@dataclass(frozen=True)
class Job:
    """All the work of a request, checked.

    hash       names the run                        config   the effective request as plain data, as results keep it
    seams      members of the loop's seams          modifiers  the same as requested
    watchdog   None: the usual one where there are data for it; False: none
    source     None: the task was passed            output   the folder of run folders     cache  of trained models
    headline   over the page: the title, or family and methods
    objective  what is to go; None: by the family (`objective_of`)
    climb      a ladder instead of runs (`lethe.work.ladder`); None: the runs
    policy     by which its one method was chosen (`lethe.work.policy`)
    accept     checks of `lethe.work.door` whose errors are warnings
    """

    hash: str
    title: str
    config: Mapping[str, Any]
    runs: tuple[Run, ...]
    judging: Judging
    settings: Settings
    seams: Modifiers
    modifiers: Mapping[str, Any]
    watchdog: Watchdog | bool | None = None
    source: Source | None = None
    output: Path | None = None
    cache: Path | None = None
    headline: str = ""
    accept: tuple[str, ...] = ()
    objective: Objective | None = None
    climb: Climb | None = None
    policy: Policy | None = None

    @property
    def opening(self) -> Source:
        """Where its tasks come from; only for a job that was made from a request."""
        assert self.source is not None, "a job made from a task has no request to open"
        return self.source

    def of(self, model: nn.Module) -> Job:
        """The same, judged as is usual for a model of this size; its config says so. A ladder needs retrained models of any."""
        if self.climb is not None:
            return self
        judging = self.judging.of(model)
        return replace(self, judging=judging, config={**self.config, "audit": {**self.config["audit"], **judging.counts}})

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        assert self.output is not None, "a job made from a task has no folder"
        return self.output / self.hash

    def runs_on(self, task: Task) -> tuple[Run, ...]:
        """The runs that a task can serve; NeedsUnmet before any work when one requested by name cannot be served."""
        return tuple(_checked(task, run, self.settings.seed) for run in self.runs
                     if not (run.optional and unmet(task, run.record, run.cfg)))


def _checked(task: Task, run: Run, seed: int) -> Run:
    """The run itself; one that `all` requested and whose method refuses the task says why: the others go on."""
    try:
        if run.optional or run.seed == seed:   # the other seeds of one requested by name need the same
            require(task, run.record, run.cfg)
    except LetheError as error:
        if not run.optional:
            raise
        return replace(run, obstacle=str(error))
    return run


def resolve(request: Request, options: Options) -> Job:
    """The job of a request. Raises RequestError for what is wrong with names, options and values; no data or model is read.

    Each room is asked once for its part: train (what runs, and how), pools (what the model is to choose), results (the margins).
    """
    seed = request.seed
    methods: list[tuple[Method, object, bool]] = []
    policy = request.calibrated
    if policy is not None:
        methods = [(*method_of({"name": policy.method, **policy.options}), False)]
    for entry, given in () if request.until or policy else request.asked:
        for found in everything(request.family) if entry is None else [entry]:
            record: Method = catalogue.record(found)
            methods.append((record, build(record.config, given), entry is None or found.name in options.spared))
    if request.asked and not methods and request.until is None:
        fit = [name for name, entry in catalogue.entries("methods").items() if entry.fits(request.family)]
        raise RequestError(f"method=all leaves out retraining, exact methods and searches, and there are no others for "
                           f"{request.family}; nothing was started. Name some of: {', '.join(sorted(fit))}.")
    settings, seams = build(Settings, {**request.settings, "seed": seed}), Modifiers(**resolved(request.modifiers))
    watchdog = build(Watchdog, request.watchdog) if isinstance(request.watchdog, Mapping) else request.watchdog
    recipe = build(Recipe, request.recipe).require_sound() if request.recipe is not None else None
    family = catalogue.load("families", request.family)
    cases = tuple(Case(name, selection, wish(selection)) for name, selection in request.cases.items())
    audits: list[tuple[Audit, object]] = []
    for found, given in request.asked_audits or [(entry, {}) for entry in catalogue.entries("audits").values()]:
        audit: Audit = catalogue.record(found)
        audits.append((audit, build(audit.config, given)))
    judging, told = _judging(request.audit, tuple(audits), bool(request.asked_audits)), plain(request)
    return Job(
        request.hash, request.title, {**told, "audit": {**told["audit"], **judging.counts}},
        tuple(_runs(methods, seed, request.seeds)), judging, settings, seams, request.modifiers, watchdog,
        Source(request.family, family.open, Sections(request.model, request.data, recipe), family.data, cases),
        Path(request.output), options.cache or Path(request.output) / ".cache",
        request.title or f"{request.family}: {_what(request)}",
        tuple(request.accept),
        objective=request.objective, climb=None if request.until is None else Climb(request.until, request.within),
        policy=policy,
    )


def _what(request: Request) -> str:
    """What a request runs, for a headline."""
    if request.until is not None:
        return f"a ladder until {request.until}, within {request.within:g} of a retraining"
    if request.policy is not None:
        return f"by policy {Path(request.policy).stem}"
    return ", ".join(dict.fromkeys(method["name"] for method in request.methods))


def of_task(task: Task, methods: Sequence[Asked], plan: AuditPlan, *, seed: int = 0, seeds: int = 1, title: str = "",
            cache: Path | None = None, config: Mapping[str, Any] | None = None, settings: Settings | None = None,
            watchdog: Watchdog | bool | None = None) -> Job:
    """The job of a call from Python on an existing task. config: what the results keep of the call."""
    found: list[tuple[Method, object, bool]] = []
    for asked in methods:
        if (asked.get("name") if isinstance(asked, Mapping) else asked) == ALL:
            records = [catalogue.record(entry) for entry in everything(task.family)]
            found += [(record, record.config(), True) for record in records]
        else:
            found.append((*method_of(asked), False))
    audits = tuple(audit_of(asked) for asked in plan.audits or catalogue.entries("audits"))
    used = replace(settings or Settings(), seed=seed)
    judging = _judging(plan, audits, bool(plan.audits)).of(task.model)
    told = {**(config or {}), **{name: count for name, count in judging.counts.items() if name in (config or {})}}
    return Job(digest(told), title, told, tuple(_runs(found, seed, seeds)), judging, used, Modifiers(), {}, watchdog, cache=cache)


def audit_of(asked: Any) -> tuple[Audit, object]:
    """The record and the checked config of an audit from its name or from {name: …, option: …}."""
    options = {"name": asked} if isinstance(asked, str) else dict(asked)
    record: Audit = catalogue.load("audits", options.pop("name"))
    return record, build(record.config, options)


def _judging(plan: AuditPlan, audits: tuple[tuple[Audit, object], ...], named: bool) -> Judging:
    return Judging(plan, audits, named, declared(audits, plan.margins), dict(plan.margins), plan.depth, plan.strategy,
                   plan.max_loss, *plan.counts())


def _runs(methods: Sequence[tuple[Method, object, bool]], seed: int, seeds: int) -> Iterator[Run]:
    """Every configuration with seeds seed, seed + 1, …"""
    variants: dict[str, int] = {}
    taken: dict[str, int] = {}
    for record, cfg, optional in methods:
        variant = variants[record.name] = variants.get(record.name, 0) + 1
        label = _label(record.name, cfg, [other for each, other, _ in methods if each.name == record.name])
        taken[label] = taken.get(label, 0) + 1
        label = label if taken[label] == 1 else f"{label} ({taken[label]})"
        for each in range(seed, seed + seeds):
            yield Run(record, cfg, label if seeds == 1 else f"{label} seed {each}", label, variant, each, optional)


def _label(name: str, cfg: object, every: Sequence[object]) -> str:
    """The method's name with the options by which its configurations differ: 'scrub lr=0.1'."""
    options, others = plain(cfg), [plain(one) for one in every]
    apart = [key for key, value in options.items() if any(other.get(key) != value for other in others)]
    return " ".join([name, *(f"{key}={_short(options[key])}" for key in apart)])


def _short(value: Any) -> str:
    """A value as it stands in a label, which also names a folder."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.")[:40] or "empty"


def objective_of(family: str, retrainable: bool) -> Objective:
    """What a request is about that does not say it, as the family declares it (`about=`).

    Image generators: a concept. Language models that cannot be trained again: a behaviour, since no retrained model shows what
    one that never knew would do. Everything else: records; so where exact methods computed every model without them.
    """
    about: Objective = catalogue.entry("families", family).facts.get("about", "records")
    return "records" if about == "behaviour" and retrainable else about
