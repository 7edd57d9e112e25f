"""`lethe train`: train a model from which records can be deleted exactly, and write its folder."""

from __future__ import annotations

import importlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lethe.core.catalogue import entry
from lethe.core.config import build, digest, plain
from lethe.core.files import new_folder
from lethe.errors import NeedsUnmet, OutputExists, RequestError, unknown_name

if TYPE_CHECKING:
    from lethe.core.split import Split
    from lethe.models.opened import Opened
    from lethe.work.execute import Options
    from lethe.work.request import Request

EXACT = ("s3t", "sisa")


def train(request: Request, name: str, output: Path, options: Options) -> dict[str, Any]:
    """Train by the exact method `name` on the request's training records and write `output`; what stands there, in words.

    The request's own options of that method are used when it names it. Killed, it goes on when it is repeated.
    """
    if name not in EXACT:
        raise unknown_name("method with a training of its own", name, EXACT)
    if not entry("methods", name).fits(request.family):
        raise NeedsUnmet(f"{name} trains {' and '.join(entry('methods', name).families)}, the request is {request.family}; "
                         "nothing was started. lethe methods --family lists what can forget there.")
    if output.exists():
        raise OutputExists(f"{output} exists; a trained model is never overwritten, so nothing was started. Give another "
                           "--output.")
    from lethe.core.modules import seeded
    from lethe.core.seeds import derive
    from lethe.train.loop import Loop, Settings
    from lethe.work import execute as runner

    module = importlib.import_module(entry("methods", name).module)
    asked = next((one for one in request.methods if one["name"] == name), {"name": name})
    cfg = build(module.run.config, {key: value for key, value in asked.items() if key not in ("name", "trained")})
    with_recipe = request if name == "sisa" or request.recipe is not None else replace(request, recipe={})   # S3T has its own
    opened = runner.open_request(with_recipe, options)
    given = opened.model is not None or bool(opened.unrepeatable)
    if given and not cfg.public_base:
        raise RequestError("the model's given weights would be where every shard starts, and may have seen the records; nothing "
                           "was started. Leave them out, or give method.public_base=true if they never saw the data.")
    settings = build(Settings, {**request.settings, "seed": request.seed})
    base = opened.model or seeded(_builder(opened), derive(settings.seed, name))
    records = _records(opened)
    task = opened.task(base, {"retain": records}, "training")
    folder = runner.cache_folder(request, options) / "exact" / digest([request.hash, plain(cfg), records.fingerprint])
    loop = Loop(task, settings, folder=folder, title=name)
    options.say(f"training {name} on {len(records)} records")
    state = module.train(cfg, task, loop, records, base, given)
    served = module.served(state, base)
    with new_folder(output) as place:
        state.save(place, served, task.save_model)
        (place / "request.yaml").write_text(_next(request, name, cfg, state.manifest.details["head"], output))
    shutil.rmtree(folder, ignore_errors=True)
    return {"folder": str(output), "method": name, "records": len(records), "shards": cfg.shards, "slices": cfg.slices,
            "stages": len(state.stages), "steps": loop.cost.steps, "seconds": round(loop.elapsed(), 1),
            "next": f"lethe run {output / 'request.yaml'} 'forget={{ids: […]}}'"}


def _builder(opened: Opened) -> Any:
    if opened.build is None:
        raise RequestError("the request does not say how the model is made, so there is nothing to train; nothing was started.")
    return opened.build


def _records(opened: Opened) -> Split:
    """All training records, divided or not."""
    from lethe.core.split import concat

    if "train" in opened.splits:
        return opened.splits["train"]
    return concat([opened.splits["retain"], opened.splits["forget"]], "train")


def _next(request: Request, name: str, cfg: Any, head: str, output: Path) -> str:
    """The request with which records are deleted from the new model: it lacks only `forget`."""
    asked = plain(request)
    whole = output.resolve()
    built = {key: request.model[key] for key in ("zoo", "code", "options") if request.model.get(key)}
    asked["model"] = {"code": "lethe.models.exact:ensemble", "options": {"members": cfg.shards, "head": head, **built},
                      "head": head, "weights": str(whole / "model.safetensors")}
    asked["method"] = {"name": name, "trained": str(whole), "public_base": cfg.public_base}
    asked["audit"] = {**asked["audit"], "references": 0, "shadows": 0}
    for key in ("recipe", "forget", "scenarios"):   # its training is no recipe: references would be trained otherwise
        asked.pop(key, None)
    return (f"# Delete records from the model beside this file:  lethe run {output / 'request.yaml'} 'forget={{ids: […]}}'\n"
            + yaml.safe_dump(asked, sort_keys=False, allow_unicode=True))
