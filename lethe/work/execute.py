"""Carry out a request: open it, train the original where it must be, forget, audit, write the run folder and the ledger.

A run folder `runs/<hash>/` holds request.yaml, results.json, report.html, the unlearned models (`models/`), and logs and
checkpoints (`work/`). It is named by the hash of the effective request: repeating a finished request shows its results,
repeating an interrupted one goes on where it stopped.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from lethe.api import Plan, Say, audits_of, method_of, require, run_all, scenario
from lethe.core.catalogue import entries
from lethe.core.catalogue import load as load_entry
from lethe.core.config import build, digest, plain
from lethe.core.files import write_text
from lethe.core.guard import as_served
from lethe.core.modules import named_tensors, seeded
from lethe.core.outcome import Outcome
from lethe.core.split import Split
from lethe.core.task import Recipe, Task
from lethe.data.context import Context
from lethe.data.select import Where, divide
from lethe.errors import NeedsUnmet, RequestError
from lethe.ledger import Ledger
from lethe.models.opened import Opened
from lethe.pools import choose
from lethe.report.answer import lopsided
from lethe.report.report import Report, load
from lethe.results import schema
from lethe.results.frame import frame
from lethe.results.rows import declared
from lethe.train.checkpoint import load_tensors, save_tensors
from lethe.train.journal import terminal
from lethe.train.loop import Loop, Settings
from lethe.train.modifiers import resolved
from lethe.train.watchdog import Watchdog
from lethe.work.request import ALL, Request


@dataclass
class Options:
    """What the command line adds to a request; none of it changes a result."""

    data_root: Path | None = None
    command: str = "lethe"
    again: bool = False
    export: bool = False
    allow_pickle: bool = False
    progress: bool = True
    say: Say = lambda text: None
    cache: Path | None = None


@dataclass
class Prepared:
    """An opened request with its model trained: one task per scenario."""

    opened: Opened
    tasks: dict[str, Task]
    words: dict[str, str]
    settings: Settings


def open_request(request: Request, options: Options) -> Opened:
    """Let the family read `model` and `data`."""
    context = Context(options.data_root, cache_folder(request, options), options.allow_pickle, options.say)
    opened: Opened = load_entry("families", request.family).open(request, context)
    if request.recipe is not None:
        opened.recipe = build(Recipe, request.recipe)
    if opened.model is None and opened.recipe is None:
        raise NeedsUnmet("the request gives neither trained weights (model.weights, model.folder) nor a recipe to train them, so "
                         "there is nothing to forget from. Add one of them.")
    return opened


def cache_folder(request: Request, options: Options) -> Path:
    return options.cache or Path(request.output) / ".cache"


def prepare(request: Request, options: Options) -> Prepared:
    """Open the request, train the original if it came without weights, and make one task per scenario."""
    opened = open_request(request, options)
    settings = build(Settings, {**request.settings, "seed": request.seed})
    model = opened.model
    for selection in request.cases.values():   # refused before the original is trained
        sizes = {key: len(split) for key, split in _parts(opened, _stand_in(opened, selection)).items()}
        if lopsided(sizes):
            options.say(f"warning: {lopsided(sizes)}")
    if model is None:
        for selection in request.cases.values():
            require_sound(opened, request, selection)
        options.say("training the original model")
        model = trained(opened, settings, cache_folder(request, options))
    tasks, words = {}, {}
    for name, selection in request.cases.items():
        chosen = _chosen(opened, selection, model, cache_folder(request, options))
        splits = _parts(opened, selection if chosen is None else chosen.mask)
        tasks[name] = opened.task(model, splits, name or request.title or request.family)
        tasks[name].facts.update(opened.facts, **({} if chosen is None else {"chosen": chosen.facts}))
        if opened.unrepeatable:
            tasks[name].unrepeatable(opened.unrepeatable)
        words[name] = describe(request.cases[name], len(splits["forget"]))
    return Prepared(opened, tasks, words, settings)


def require_sound(opened: Opened, request: Request, selection: Any) -> None:
    """Every check of data, model and methods that a task makes, on the given model or, where it is yet to be trained, on a fresh
    one; raises what is wrong."""
    start = opened.model or (seeded(opened.build, request.seed) if opened.build else None)
    if start is None:
        return
    task = opened.task(start, _parts(opened, _stand_in(opened, selection)), "checks")
    if opened.unrepeatable:
        task.unrepeatable(opened.unrepeatable)
    for method in request.methods:
        if method["name"] in entries("methods"):   # `all` is those that can run
            require(task, *method_of(method))


def trained(opened: Opened, settings: Settings, cache: Path) -> nn.Module:
    """The original model, trained by the recipe on everything, from the cache when it is there."""
    assert opened.recipe is not None
    train = opened.splits["train"]
    if opened.build is None:
        raise RequestError("the model came without weights and without a way to build it; nothing was started.")
    start = seeded(opened.build, settings.seed)
    others = {k: v for k, v in opened.splits.items() if k in ("holdout", "test")}
    task = opened.task(start, {"retain": train, **others}, "training")
    key = digest([task.fingerprint, plain(opened.recipe), settings.seed, settings.precision])
    path = cache / "original" / f"{key}.safetensors"
    loop = Loop(task, settings, folder=cache / "original" / key, listener=terminal(), title="original")
    model = loop.start(task.build(settings.seed))
    if path.exists():
        return loop.restored(model, load_tensors(path)[0])
    task.train(model, train, opened.recipe, loop)
    outcome = loop.finish(model)
    if loop.distribution.first:
        save_tensors(path, named_tensors(outcome.model), {"seconds": outcome.cost.seconds})
        shutil.rmtree(cache / "original" / key, ignore_errors=True)
    return outcome.model


def carry_out(request: Request, options: Options) -> Report | None:
    """Forget with every method of the request on every scenario, audit, write the run folder and the ledger.

    Under torchrun every process trains and forgets; the first one audits and writes, the others return None.
    """
    run, leads = request.hash, os.environ.get("RANK", "0") == "0"
    folder = Path(request.output) / run
    if (folder / "results.json").exists() and not options.again:
        options.say(f"{folder} holds the finished run of this very request; --again repeats it")
        return load(folder)
    plan = plan_of(request, options)
    if not leads:
        for name, task in prepare(request, options).tasks.items():
            run_all(task, request.methods, replace(plan, folder=_work(folder, name)))
        return None
    if options.again:
        shutil.rmtree(folder, ignore_errors=True)
    ledger = Ledger(Path(request.output) / "ledger.sqlite")
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "request.yaml", yaml.safe_dump(plain(request), sort_keys=False, allow_unicode=True))
    ledger.started(run, request.title, options.command, plain(request))
    try:
        prepared = prepare(request, options)
        cases = [_case(name, task, prepared, plan, request, options, folder) for name, task in prepared.tasks.items()]
    except BaseException as error:
        ledger.record_failure(run, plain(request), options.command, f"{type(error).__name__}: {error}")
        raise
    title = request.title or f"{request.family}: {', '.join(m['name'] for m in request.methods)}"
    results = frame(run, title, options.command, plain(request), cases, time.perf_counter() - began, plan.settings.device,
                    torch.get_num_threads())
    report = Report(results)
    report.save(folder / "report.html")
    report.save(folder / "results.csv")
    report.save_leaderboard(folder)
    report.save(folder / "results.json")   # last: its presence says that the run is finished
    shutil.rmtree(folder / "work", ignore_errors=True)
    ledger.record(results, folder)
    return report


def plan_of(request: Request, options: Options) -> Plan:
    """Everything that the request says beside model and data, checked before any work starts."""
    for method in request.methods:
        if method["name"] != ALL:
            method_of(method)
    declared(audits_of(request.audit.audits), request.audit.margins)
    resolved(request.modifiers)
    asked = request.audit
    return Plan(
        asked.depth, asked.references, asked.shadows, tuple(asked.audits), asked.strategy, request.seeds,
        build(Settings, {**request.settings, "seed": request.seed}), request.modifiers,
        watchdog_of(request), None,
        cache_folder(request, options), options.say, options.progress, margins=dict(asked.margins), neighbours=asked.neighbours,
    )


def watchdog_of(request: Request) -> Watchdog | bool | None:
    """The watchdog that a request asks for; None: the usual one."""
    return build(Watchdog, request.watchdog) if isinstance(request.watchdog, Mapping) else request.watchdog


def _case(name: str, task: Task, prepared: Prepared, plan: Plan, request: Request, options: Options, folder: Path
          ) -> schema.Scenario:
    runs = run_all(task, request.methods, replace(plan, folder=_work(folder, name)))
    if options.export:
        for label, outcome in runs:
            place = models_folder(folder, name) / label.replace(" ", "-")
            if isinstance(outcome, Outcome) and not place.exists():
                outcome.save(place)
    return scenario(task, runs, plan, name, prepared.words[name])


def _work(folder: Path, scenario_name: str) -> Path:
    """Where logs and checkpoints of a scenario stand while it is worked on."""
    return folder / "work" / digest(scenario_name)


def audit_files(request: Request, options: Options, models: Mapping[str, Sequence[Path]], depth: str, run: Path | None = None
                ) -> Report:
    """Audit saved models of any origin, by scenario, on the tasks of a request. `run`: the folder of the run that made them."""
    plan = replace(plan_of(request, options), depth=depth)
    began = time.perf_counter()
    prepared = prepare(request, options)
    cases, names = [], [str(path) for paths in models.values() for path in paths]
    for name, paths in models.items():
        task, used = prepared.tasks[name], name in _halved(run)
        runs = [(f"model {path.name}" if path.name in CONTROLS else path.name,
                 Outcome(as_served(path, prepared.opened.load(path)), method=path.name, task=task, unseen_used=used))
                for path in paths]
        cases.append(scenario(task, runs, plan, name, prepared.words[name]))
    title = f"Audit ({depth}) of {', '.join(names)}"
    results = frame(digest([request.hash, names, depth]), title, options.command, plain(request), cases,
                    time.perf_counter() - began, plan.settings.device, torch.get_num_threads())
    return Report(results)


def _halved(run: Path | None) -> set[str]:
    """The scenarios of a finished run in which a method looked at half of holdout."""
    if run is None or not (run / "results.json").exists():
        return set()
    return {case.name for case in load(run).results.scenarios if "reference" in case.sizes}


CONTROLS = {"original", "retrained"}   # names of the rows that stand in every table


def saved_models(request: Request, folder: Path) -> dict[str, list[Path]]:
    """The models that a run has written, by scenario."""
    found = {name: sorted(p for p in models_folder(folder, name).glob("*") if p.is_dir()) for name in request.cases}
    return {name: paths for name, paths in found.items() if paths}


def models_folder(folder: Path, scenario_name: str) -> Path:
    """Where the models of a scenario are written."""
    return folder / "models" / scenario_name.replace(" ", "-")


def dry_run(request: Request, options: Options) -> dict[str, Any]:
    """What a request would do: sizes, steps, parameters; nothing is trained."""
    settings = plan_of(request, options).settings
    opened = open_request(request, options)
    start = opened.model or (opened.build(settings.seed) if opened.build else None)
    plans: dict[str, Any] = {}
    for name, selection in request.cases.items():
        splits = _parts(opened, _stand_in(opened, selection))
        require_sound(opened, request, selection)
        sizes = {key: len(split) for key, split in splits.items()}
        plans[name or "request"] = {
            "request": describe(selection, len(splits["forget"])),
            "sizes": sizes,
            "methods": [m["name"] for m in request.methods],
            "references": request.audit.references,
            **({"warning": lopsided(sizes)} if lopsided(sizes) else {}),
        }
    parameters = sum(p.numel() for p in start.parameters()) if start is not None else None
    return {
        "id": request.hash, "folder": str(Path(request.output) / request.hash), "family": request.family,
        "parameters": parameters,
        "trains_original": opened.model is None, "recipe": plain(opened.recipe) if opened.recipe else None, "scenarios": plans,
        "memory_mb": None if parameters is None else round(parameters * 4 * 4 / 1e6, 1),
    }


def describe(selection: Any, count: int) -> str:
    """The request in words."""
    if isinstance(selection, Mapping):
        inner = ", ".join(f"{key} {value}" for key, value in selection.items())
        return f"forget {inner} ({count} examples)"
    return f"forget {count} examples"


def _parts(opened: Opened, selection: Any) -> dict[str, Split]:
    others = {key: split for key, split in opened.splits.items() if key not in ("train", "forget", "retain")}
    if selection is None:
        if "forget" not in opened.splits:
            raise RequestError("the request does not say what to forget, so nothing was started. Add forget: {label: 3}, "
                               "{ids: […]}, {fraction: 0.1}, {query: …}, {entity: …}, {text: …}; or data.forget.")
        return {**{key: opened.splits[key] for key in ("forget", "retain") if key in opened.splits}, **others}
    forgotten, retained = divide(opened.splits["train"], selection)
    return {"forget": forgotten, "retain": retained, **others}


def _stand_in(opened: Opened, selection: Any) -> Any:
    """The selection itself or, of one that needs the model, as many examples as it will choose."""
    wanted = choose.asked(selection)
    if wanted is None:
        return selection
    allowed = _among(opened, wanted[2])
    choose.require_room(wanted[1].count, len(allowed), int(allowed.sum()))
    return np.flatnonzero(allowed)[: wanted[1].count]


def _chosen(opened: Opened, selection: Any, model: nn.Module, cache: Path) -> choose.Chosen | None:
    """What the trained model chooses; None when the selection does not need it."""
    wanted = choose.asked(selection)
    if wanted is None:
        return None
    name, cfg, rest = wanted
    train = opened.splits["train"]
    return choose.chosen_by(opened.task(model, {"retain": train}, name), train, name, cfg, _among(opened, rest), cache)


def _among(opened: Opened, conditions: Mapping[str, Any]) -> np.ndarray:
    """[n] booleans: the training examples that the other conditions of a selection leave to choose from."""
    return build(Where, conditions).mask(opened.splits["train"])
