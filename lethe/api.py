"""The public functions: make a task, forget, audit, compare."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lethe.core import catalogue
from lethe.core.config import build, digest, plain
from lethe.core.events import silent
from lethe.core.evidence import Depth
from lethe.core.outcome import Outcome
from lethe.core.registry import Audit
from lethe.core.seeds import derive
from lethe.core.task import Task
from lethe.core.view import audited, reserved
from lethe.errors import LetheError
from lethe.judge.auditor import applicable, examine
from lethe.judge.neighbours import neighbours
from lethe.judge.selection import final
from lethe.judge.yardstick import doubts, false_alarms
from lethe.pools.member import train_one
from lethe.pools.pool import Pool, train_pool
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Procedure, Subject
from lethe.report.report import Report
from lethe.results.frame import frame
from lethe.results.rows import access, alarms, declared, doubt, row
from lethe.results.schema import Blind, NotTested, References, Scenario
from lethe.train.apply import all_methods, apply, method_of, require
from lethe.train.journal import terminal
from lethe.train.loop import Settings
from lethe.train.watchdog import Watchdog
from lethe.work.request import ALL

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How a comparison is carried out, apart from what is compared."""

    depth: Depth = "standard"
    references: int = 8
    shadows: int = 16                 # most shadow models that an audit may train; 0: none
    audits: tuple[Any, ...] = ()
    strategy: str = "auto"
    seeds: int = 1
    settings: Settings = field(default_factory=Settings)
    modifiers: Mapping[str, Any] | None = None
    watchdog: Watchdog | bool | None = None   # None: the usual one where there are data for it; False: none
    folder: Path | None = None        # logs, checkpoints and models of the methods
    cache: Path | None = None         # retrained reference models
    say: Say = lambda text: None
    progress: bool = False
    retrained: tuple[nn.Module, ...] = ()   # given reference models: nothing is trained
    margins: Mapping[str, float] = field(default_factory=dict)   # equivalence margins by metric
    neighbours: int = 8               # noisy copies of the original: a weaker yardstick where there are no references


def forget(
    task: Task,
    method: str | object,
    *,
    seed: int | None = None,
    settings: Settings | None = None,
    modifiers: Mapping[str, Any] | None = None,
    watchdog: Watchdog | bool | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> Outcome:
    """Run a method on a task.

    method   a name (`lethe methods` lists them) with its options as keywords, or a config object; "auto" searches
             methods and settings, see `lethe.methods.search.auto`
    watchdog    None: the usual one (`lethe.train.watchdog`) where there are retained or holdout data; False: none
    folder   where log and checkpoints go; a call that was interrupted goes on from there when it is repeated
    Raises RequestError before any work when a name, an option or a need is wrong.
    """
    chosen = settings or Settings()
    if seed is not None:
        chosen = replace(chosen, seed=seed)
    record, cfg = method_of(method, options)
    return apply(task, record, cfg, chosen, modifiers, watchdog, Path(folder) if folder is not None else None,
                 terminal() if progress else silent)


def references(task: Task, plan: Plan) -> tuple[list[Subject], Pool | None]:
    """Models retrained without the forget set: the yardstick. Empty when none are given and the task has no recipe."""
    if plan.retrained:
        return [Subject(f"reference {i}", model, task) for i, model in enumerate(plan.retrained)], None
    if plan.references == 0 or not task.has("recipe") or not task.has("retain"):
        return [], None
    pool = train_pool(task, count=plan.references, seed=derive(plan.settings.seed, "references"), strategy=plan.strategy,
                      cache=plan.cache, progress=plan.say, device=plan.settings.device)
    return [Subject(f"reference {i}", m, task, s, procedure=RETRAIN)
            for i, (m, s) in enumerate(zip(pool.models, pool.seconds, strict=True))], pool


NOTHING = Procedure("nothing", lambda task, seed: task.original)
RETRAIN = Procedure("retrain", lambda task, seed: train_one(task, task.retain, seed)[1], retrains=True)


def shadows_of(task: Task, plan: Plan) -> Shadows | None:
    """The pool of shadow models that audits may grow; None when the task cannot have any."""
    if not plan.shadows or not all(task.has(need) for need in ("recipe", "retain", "holdout")):
        return None
    return Shadows(task, plan.shadows, derive(plan.settings.seed, "shadows"), plan.strategy, plan.settings.device, plan.cache,
                   plan.say)


def procedure_of(run: Outcome, plan: Plan) -> Procedure | None:
    """How Lethe made this model, to be repeated on shadow models; None for a model from elsewhere."""
    if "name" not in run.config:
        return None
    options = {key: value for key, value in run.config.items() if key not in ("settings", "modifiers", "chosen")}
    options = run.config.get("chosen", options)   # of a search: what it chose, not the search
    if options["name"] == "nothing":
        return NOTHING
    record, cfg = method_of(options)
    if record.name == "retrain":
        return RETRAIN
    settings = replace(plan.settings, max_minutes=None)

    def again(task: Task, seed: int) -> nn.Module:
        return forget(task, cfg, settings=replace(settings, seed=seed), modifiers=plan.modifiers, watchdog=plan.watchdog,
                      progress=False).answering

    key = digest([record.name, plain(cfg), plain(replace(settings, seed=0)), plain(dict(plan.modifiers or {})),
                  plain(plan.watchdog)])
    return Procedure(key, again, weights=run.kind == "weights")


def audit(
    task: Task,
    unlearned: Outcome | nn.Module,
    *,
    depth: Depth = "standard",
    references: int = 8,
    shadows: int = 16,
    audits: Sequence[Any] = (),
    seed: int = 0,
    cache: Path | None = None,
    margins: Mapping[str, float] | None = None,
) -> Report:
    """Examine one unlearned model beside the original and retrained references."""
    outcome = unlearned if isinstance(unlearned, Outcome) else Outcome(unlearned, method="unlearned", task=task)
    plan = Plan(depth, references, shadows, tuple(audits), settings=Settings(seed=seed), cache=cache, margins=margins or {})
    began = time.perf_counter()
    case = scenario(task, [("", outcome)], plan)
    config = {"depth": depth, "references": references, "shadows": shadows, "task": task.fingerprint,
              "margins": dict(margins or {})}
    title = f"{outcome.method or 'unlearned'} on {task.name}"
    return _report([case], title, config, plan, time.perf_counter() - began, "lethe.audit(…)")


def compare(
    task: Task,
    methods: Sequence[str | Mapping[str, Any] | object],
    *,
    depth: Depth = "standard",
    references: int = 8,
    shadows: int = 16,
    seed: int = 0,
    seeds: int = 1,
    cache: Path | None = None,
    title: str = "",
    margins: Mapping[str, float] | None = None,
) -> Report:
    """Run several methods on the same task and hold them against the same yardstick, with doing nothing and retraining."""
    plan = Plan(depth, references, shadows, seeds=seeds, settings=Settings(seed=seed), cache=cache, margins=margins or {})
    began = time.perf_counter()
    case = scenario(task, run_all(task, methods, plan), plan)
    config = {"methods": [plain(m) for m in methods], "depth": depth, "references": references, "shadows": shadows,
              "task": task.fingerprint, "margins": dict(margins or {})}
    return _report([case], title or f"Comparison on {task.name}", config, plan, time.perf_counter() - began, "lethe.compare(…)")


# -- the steps, as the request runner uses them ------------------------------------------------------------------------


def _named(method: Any) -> Any:
    return method.get("name") if isinstance(method, Mapping) else method


def audits_of(asked: Sequence[Any]) -> list[tuple[Audit, Any]]:
    """Records and checked configs of audits given by name or {name: …, option: …}; all of them when none is given."""
    found = []
    for item in asked or list(catalogue.entries("audits")):
        options = {"name": item} if isinstance(item, str) else dict(item)
        record = catalogue.load("audits", options.pop("name"))
        found.append((record, build(record.config, options)))
    return found


def run_all(task: Task, methods: Sequence[Any], plan: Plan) -> list[tuple[str, Outcome | LetheError]]:
    """(label, outcome or error) of every method and seed. A method that fails does not stop the others; one that the task
    cannot serve is an error before any work."""
    methods = [one for method in methods for one in (all_methods(task) if _named(method) == ALL else [method])]
    for method in methods:
        require(task, *method_of(method))
    done: list[tuple[str, Outcome | LetheError]] = []
    labels: dict[str, int] = {}
    for method in methods:
        record, cfg = method_of(method)
        labels[record.name] = labels.get(record.name, 0) + 1
        label = record.name if labels[record.name] == 1 else f"{record.name} ({labels[record.name]})"
        for repeat in range(plan.seeds):
            settings = replace(plan.settings, seed=plan.settings.seed + repeat)
            name = label if plan.seeds == 1 else f"{label} seed {settings.seed}"
            plan.say(f"forgetting: {name}")
            folder = plan.folder / name.replace(" ", "-") if plan.folder else None
            try:
                done.append((name, forget(task, cfg, settings=settings, modifiers=plan.modifiers, watchdog=plan.watchdog,
                                          folder=folder, progress=plan.progress)))
            except LetheError as error:
                done.append((name, error))
    return done


def scenario(task: Task, runs: Sequence[tuple[str, Outcome | LetheError]], plan: Plan, name: str = "", request: str = ""
             ) -> Scenario:
    """Audit the runs on one task."""
    done = [run for _, run in runs if isinstance(run, Outcome)]
    if any(run.unseen_used for run in done):   # what a method learned from is no longer unseen
        task = task.replaced(task._original, holdout=audited(task.holdout), reference=reserved(task.holdout))
    if any(run.search for run in done):
        task = final(task)   # what chose may not judge
    device, seed = plan.settings.device, plan.settings.seed
    margins = declared(audits_of(plan.audits), plan.margins)   # before any model is looked at
    yardstick, pool = references(task, plan)
    original = Subject("original", task._original, task, procedure=NOTHING)
    fresh = _retrained(task, seed, yardstick, plan)
    subjects = [*fresh, *_subjects(task, runs, plan)]
    for subject in [original, *yardstick, *subjects]:
        subject.device = device
    shadows = shadows_of(task, plan)
    chosen, skipped = _audits(task, plan, len(yardstick), shadows)
    plan.say("auditing")

    def refused(audit: str, subject: str, why: str) -> None:
        skipped.append(NotTested(audit=audit, subject=subject, why=why))

    weak = [] if yardstick else neighbours(task, plan.neighbours, derive(seed, "neighbours"), device)
    evidence = examine(task, subjects, original, yardstick, chosen, plan.depth, seed, lambda a: plan.say(f"auditing: {a}"),
                       shadows, margins=plan.margins, neighbours=weak, refused=refused)
    skipped += [NotTested(audit=audit.name, metric=name, why=f"needs {metric.asks}") for audit, _ in chosen
                for name, metric in audit.metrics.items()
                if metric.asks and not any(e.metric == name for s in subjects for e in evidence[s.name])]
    rows = [row("original", "original", evidence["original"])] if task.has("original") else []
    rows += [row(s.name, "retrained", evidence[s.name], seconds=s.seconds) for s in fresh]
    for label, run in runs:
        key = label or (run.method if isinstance(run, Outcome) else "")
        named = re.fullmatch(r"(?P<label>.*?(?: \((?P<variant>\d+)\))?)(?: seed (?P<seed>-?\d+))?", key)
        assert named is not None
        about: dict[str, Any] = {"label": named["label"], "variant": int(named["variant"] or 1)}
        if isinstance(run, Outcome):
            seed_used = run.config.get("settings", {}).get("seed")
            rows.append(row(key, "method", evidence[key], run=run, samples=task.samples(run.answering),
                            method=run.config.get("name", ""), seed=seed_used, **about))
        else:
            rows.append(row(key, "method", [], error=f"{type(run).__name__}: {run}", **about))
    held = {s.name: evidence[s.name] for s in yardstick}
    return Scenario(
        name=name, request=request, family=task.family, score_name=task.score_name,
        sizes={key: len(split) for key, split in task.splits.items()}, fingerprints=task.fingerprint, facts=plain(task.facts),
        references=References(count=len(yardstick), strategy=pool.strategy if pool else "",
                              seconds_each=sum(pool.seconds) / len(pool.seconds) if pool else None,
                              reason=_why(task, plan, pool), neighbours=len(weak)),
        subjects=tuple(rows), not_tested=tuple(skipped),
        blind=tuple(Blind(audit=audit.name, text=audit.blind) for audit, _ in chosen),
        false_alarms=alarms(false_alarms(list(held.values()))),
        doubts=tuple(doubt(one) for one in doubts(held, evidence.get("original", []))),
        declared=margins, depth=plan.depth, access=access(task, len(yardstick), chosen, shadows is not None),
    )


def _why(task: Task, plan: Plan, pool: Pool | None) -> str:
    """Where the references come from, or why there are none."""
    if plan.retrained:
        return f"{len(plan.retrained)} models given as retrained"
    return pool.reason if pool else task.facts.get("no_retraining", "no recipe, or none asked for")


def _retrained(task: Task, seed: int, yardstick: list[Subject], plan: Plan) -> list[Subject]:
    """One more retrained model, outside the yardstick: the row that a perfect method would equal."""
    if not yardstick or plan.retrained:
        return []
    pool = train_pool(task, count=1, seed=derive(seed, "fresh retrain"), strategy="serial", cache=plan.cache, progress=plan.say,
                      device=plan.settings.device)
    return [Subject("retrained", pool.models[0], task, pool.seconds[0], procedure=RETRAIN)]


def _subjects(task: Task, runs: Sequence[tuple[str, Outcome | LetheError]], plan: Plan) -> list[Subject]:
    """The runs that ended well; runs of one method that differ only in their seed are siblings."""
    groups: dict[str, list[Subject]] = {}
    for label, run in runs:
        if isinstance(run, Outcome):
            group = groups.setdefault(label.split(" seed ")[0], [])
            group.append(Subject(label or run.method, run.answering, task, run.cost.seconds, procedure=procedure_of(run, plan),
                                 kind=run.kind))
    for group in groups.values():
        for subject in group:
            subject.siblings = [other for other in group if other is not subject]
    return [subject for group in groups.values() for subject in group]


def _audits(task: Task, plan: Plan, count: int, shadows: Shadows | None
            ) -> tuple[list[tuple[Audit, Any]], list[NotTested]]:
    chosen: list[tuple[Audit, Any]] = []
    skipped: list[NotTested] = []
    for record, cfg in audits_of(plan.audits):
        depth = "deep" if plan.audits else plan.depth   # what was asked for by name runs at any depth
        why = applicable(record, task, count, depth, shadows.limit if shadows else 0)
        if not why:
            chosen.append((record, cfg))
        elif not why.startswith("made for"):
            skipped.append(NotTested(audit=record.name, why=why))
    return chosen, skipped


def _report(cases: list[Scenario], title: str, config: Mapping[str, Any], plan: Plan, seconds: float, command: str
            ) -> Report:
    return Report(frame(digest(config), title, command, config, cases, seconds, plan.settings.device, torch.get_num_threads()))
