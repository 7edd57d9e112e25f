"""A small network with three layers on blobs, trained in shards and slices: what the tests of exact methods share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import blobs
from torch import Tensor

from lethe.core import catalogue
from lethe.core.outcome import Outcome
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.exact.ensemble import Ensemble
from lethe.exact.sliced import Sliced
from lethe.models.classification.task import Classification
from lethe.models.zoo.mlp import MLP
from lethe.train.loop import Loop, Settings

RECIPE = Recipe(epochs=4, lr=1e-2, batch_size=16)


def records(n: int = 160) -> Split:
    return blobs(n, 0, "train")


def build(seed: int = 0) -> MLP:
    return MLP(6, (12, 12), 4)


def base() -> MLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def trained(name: str, split: Split, seed: int = 0, folder: Path | None = None, **options: Any) -> tuple[Sliced, Ensemble]:
    """(state, ensemble) of `name` trained on `split`."""
    method, module = catalogue.load("methods", name), __import__(catalogue.entry("methods", name).module, fromlist=["train"])
    task = Classification(base(), {"retain": split}, RECIPE, build)
    state = module.train(method.config(**options), task, Loop(task, Settings(seed=seed), folder=folder), split, base())
    return state, module.served(state, base())


def saved(state: Sliced, model: Ensemble, folder: Path) -> Path:
    folder.mkdir()
    state.save(folder, model, Classification(model, {"retain": records()}).save_model)
    return folder


def deleted(name: str, folder: Path, split: Split, gone: Any, retain: bool = True, weights: Path | None = None,
            **options: Any) -> Outcome:
    """Delete positions `gone` of `split` from the model in `folder`, as `lethe run` does; weights: of another folder."""
    from safetensors.torch import load_file

    mask = np.isin(np.arange(len(split)), gone)
    parts = {"forget": split.subset(mask, "forget"), **({"retain": split.subset(~mask, "retain")} if retain else {})}
    held = load_file((weights or folder) / "model.safetensors")
    model = Ensemble(base(), "head", held["head.weight"].shape[1] // 12)
    model.load_state_dict(held)
    task = Classification(model, parts, head="head")
    method = catalogue.load("methods", name)
    outcome = method.run(method.config(trained=str(folder), **options), task.granted(method.needs),
                         Loop(task, Settings(seed=99)))
    outcome.task = task
    return outcome


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    """Bit for bit."""
    mine, other = left.state_dict(), right.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
