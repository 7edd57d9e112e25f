"""Train a model from which records can be deleted, by the way it was trained, and write its folder (`lethe train`)."""

from __future__ import annotations

import importlib
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lethe.core.catalogue import Entry, entries, record
from lethe.core.config import build, digest, plain
from lethe.core.files import new_folder, sweep, write_text
from lethe.core.seeds import derive
from lethe.core.split import Split, concat
from lethe.errors import NeedsUnmet, OutputExists, RequestError, unknown_name
from lethe.models.opened import Opened
from lethe.train.loop import Loop
from lethe.work.beside import bring
from lethe.work.job import resolve
from lethe.work.open import identified, read
from lethe.work.options import Options
from lethe.work.request import Request


def train(request: Request, name: str, output: Path, options: Options) -> dict[str, Any]:
    """Train by the method `name` on the request's training records and write `output`; a summary of what was written.

    The request's own options of that method are used when it names it. A killed call continues when it is repeated.
    """
    found = _method(name, request.family, output)
    module = importlib.import_module(found.module)
    asked = next((given for entry, given in request.asked if entry == found), {})
    cfg = build(record(found).config, {key: value for key, value in asked.items() if key != "trained"})
    own = name != "sisa" and request.recipe is None   # S3T brings a recipe of its own
    job = resolve(replace(request, recipe={}) if own else request, options)
    plan = read(job, options)
    opened = plan.opened
    given = opened.model is not None or bool(opened.unrepeatable)
    if given and not getattr(cfg, "public_base", True):
        raise RequestError("training would start from the model's weights, which may have seen the records; nothing "
                           "was started. Leave them out, or set method.public_base=true if they have not seen the data.")
    base = opened.model or opened.fresh(derive(job.settings.seed, name))
    records = _records(opened)
    task = opened.task(base, {"retain": records}, "training")
    assert job.cache is not None
    sweep(job.cache, everything=True)
    key = digest([identified(plan)[0].job.hash, plain(cfg), task.fingerprint])
    folder = job.cache / "exact" / key
    loop = Loop(task, job.settings, folder=folder, listener=options.listener, title=name, stop=options.stop, identity=key)
    options.say(f"training {name} on {len(records)} records")
    state = module.train(cfg, task, loop, records, base, given)
    served = module.served(state, base)
    with new_folder(output) as place:
        state.save(place, served, getattr(module, "written", task.save_model))
        model = getattr(module, "section", None) or (lambda model, whole: _ensemble(model, whole, cfg, state.manifest.details))
        asked, foreign = bring(_next(request, name, cfg, model(request.model, output.resolve()), output), place, output.resolve())
        flag = " --allow-code" if foreign else ""
        command = f"lethe run {shlex.quote(str(output / 'request.yaml'))} 'forget={{ids: […]}}'{flag}"
        text = f"# Delete records from the model beside this file:  {command}\n"
        write_text(place / "request.yaml", text + str(yaml.safe_dump(asked, sort_keys=False, allow_unicode=True)))
    shutil.rmtree(folder, ignore_errors=True)
    parts = {"shards": cfg.shards, "slices": getattr(cfg, "slices", 1),
             "stages": len(getattr(state, "stages", state.manifest.hit))} if hasattr(cfg, "shards") else {}
    return {"folder": str(output), "method": name, "records": len(records), **parts, "steps": loop.cost.steps,
            "seconds": round(loop.elapsed(), 1), "next": command}


def _method(name: str, family: str, output: Path) -> Entry:
    """The method with a training of its own, for this family, and a folder that can be written."""
    own = {key: entry for key, entry in entries("methods").items() if "trained" in {o.name for o in entry.options}}
    if name not in own:
        raise unknown_name("method with a training of its own", name, own)
    found = own[name]
    if not found.fits(family):
        raise NeedsUnmet(f"{name} trains {' and '.join(found.families)}, the request is {family}; nothing was started. lethe "
                         "methods --family lists what can forget there.")
    if output.exists():
        raise OutputExists(f"{output} exists; a trained model is never overwritten, so nothing was started. Choose another "
                           "--output.")
    return found


def _records(opened: Opened) -> Split:
    """All training records, divided or not."""
    if "train" in opened.splits:
        return opened.splits["train"]
    return concat([opened.splits["retain"], opened.splits["forget"]], "train")


def _ensemble(model: Mapping[str, Any], whole: Path, cfg: Any, details: Mapping[str, Any]) -> dict[str, Any]:
    """The section of a request with which an ensemble is read; model: that of a member."""
    if "head" not in details:   # a model of another library: its pickles
        return {**model, "saved": str(whole)}
    built = {key: model[key] for key in ("zoo", "code", "options") if model.get(key)}
    return {"code": "lethe.models.exact:ensemble", "options": {"members": cfg.shards, "head": details["head"], **built},
            "head": details["head"], "weights": str(whole / "model.safetensors")}


def _next(request: Request, name: str, cfg: Any, model: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """The request with which records are deleted from the new model: it lacks only `forget`."""
    asked: dict[str, Any] = plain(request)
    asked["model"] = dict(model)
    base = {"public_base": cfg.public_base} if hasattr(cfg, "public_base") else {}
    asked["method"] = {"name": name, "trained": str(output.resolve()), **base}
    asked["audit"] = {**asked["audit"], "references": 0, "shadows": 0}
    asked["accept"] = sorted({*request.accept, "provenance"})   # its shares were split off before the training
    for key in ("recipe", "forget", "scenarios"):   # its training is no recipe: references would be trained otherwise
        asked.pop(key, None)
    return asked
