"""SISA and S3T on the digits beside full training: accuracy, and accuracy after up to 15 deletions without any training."""

from __future__ import annotations

import time
from functools import cache

import numpy as np
import pytest
import torch

from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.data.load import load
from lethe.exact.ensemble import assembled
from lethe.exact.sliced import Sliced
from lethe.methods.exact import s3t, sisa
from lethe.models.classification.task import Classification
from lethe.models.zoo.mlp import MLP
from lethe.train.loop import Loop, Settings

RECIPE = Recipe(epochs=30, lr=2e-3, batch_size=64)
REQUESTS = (0, 1, 3, 5, 10, 15)


def build(seed: int = 0) -> MLP:
    return MLP(64, (64,) * 5, 10)


def accuracy(task: Classification, model: torch.nn.Module) -> float:
    with torch.no_grad():
        return float(task.observe(model.eval(), task.test.batch(range(len(task.test))))["score"].mean())


def rolled_back(state: Sliced, base: torch.nn.Module) -> torch.nn.Module:
    """SISA that only goes back to its checkpoints."""
    members = []
    for shard in range(len(state.manifest.hit)):
        length = state.manifest.surviving(shard)[1]
        members.append(state.stages[shard, 0, length] if length else None)
    return assembled(base, "head", members)


def parts(seed: int) -> tuple[Split, Split]:
    found = load({"kind": "digits", "test": 0.3, "seed": seed})
    return found["train"], found["test"]


@cache
def measured(seed: int) -> dict[str, list[float]]:
    """Test accuracy of full training, and of both after each number of REQUESTS; milliseconds of each S3T deletion."""
    train, test = parts(seed)
    task = Classification(build(), {"retain": train, "test": test}, RECIPE, build)
    loop = Loop(task, Settings(seed=seed))
    full = task.train(loop.start(task.build(seed)), train, RECIPE, loop)
    base, own = task.build(100 + seed), Loop(task, Settings(seed=seed))
    slow = sisa.train(sisa.SISA(), task, own, train, base)
    fast = s3t.train(s3t.S3T(), task, own, train, base)
    order = np.random.default_rng(seed).permutation(len(train))
    found: dict[str, list[float]] = {"full": [accuracy(task, full)], "sisa": [], "s3t": [], "ms": []}
    for count in REQUESTS:
        ids = train.ids[order[:count]].tolist()
        found["sisa"].append(accuracy(task, rolled_back(slow.sound(slow.manifest.without(ids)), base)))
        began = time.perf_counter()
        model = s3t.served(fast.sound(fast.manifest.without(ids)), base)
        found["ms"].append(1000 * (time.perf_counter() - began))
        found["s3t"].append(accuracy(task, model))
    return found


@pytest.mark.slow
def test_s3t_stays_above_sisa_without_training() -> None:
    runs = [measured(seed) for seed in range(3)]
    ours, theirs = (np.array([run[name] for run in runs]).mean(0) for name in ("s3t", "sisa"))
    assert (ours >= theirs).all() and ours[0] > 0.85
    assert ours[-1] > 0.7 and np.array([run["full"] for run in runs]).mean() > ours[0]   # sharding costs accuracy
