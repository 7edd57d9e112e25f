"""A deletion by S3T and by an exact head, as `lethe run` does it, against SISA's: digits, MLP of five layers of 64, one thread.

The time is that of the whole request: read the folder, check manifest, hashes and model, delete, assemble. It is processor time
of one thread, so that other work on the machine does not count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lethe.core import catalogue
from lethe.core.outcome import Outcome
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.data.load import load
from lethe.methods.exact import s3t, sisa
from lethe.models.classification.task import Classification
from lethe.models.zoo.mlp import MLP
from lethe.train.loop import Loop
from speed.common import compared, save

RECIPE = Recipe(epochs=30, lr=2e-3, batch_size=64)
REPEATS = 15
LIMIT_MS = 50


def build(seed: int) -> MLP:
    return MLP(64, (64,) * 5, 10)


def request(model: torch.nn.Module, train: Split, one: int) -> Classification:
    """One record to forget."""
    rest = [i for i in range(len(train)) if i != one]
    parts = {"forget": train.subset([one], "forget"), "retain": train.subset(rest, "retain")}
    return Classification(model, parts, head="head")


def deletion(name: str, task: Classification, **options: Any) -> Callable[[], Outcome]:
    method = catalogue.load("methods", name)
    return lambda: method.run(method.config(**options), task.granted(method.needs), Loop(task))


def seconds(work: Callable[[], Outcome]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    train = load({"kind": "digits", "test": 0.3})["train"]
    task = Classification(MLP(64, (64,) * 5, 10), {"retain": train}, RECIPE, build)
    base = task.build(1)
    with TemporaryDirectory() as scratch:
        ways: dict[str, Callable[[int], Callable[[], Outcome]]] = {}
        for name, module, cfg in (("s3t", s3t, s3t.S3T(epochs=2)), ("sisa", sisa, sisa.SISA())):
            state = module.train(cfg, task, Loop(task), train, base)  # type: ignore[attr-defined]
            model, folder = module.served(state, base), Path(scratch) / name  # type: ignore[attr-defined]
            folder.mkdir()
            state.save(folder, model, task.save_model)
            ways[name] = lambda i, n=name, m=model, f=folder: deletion(n, request(m, train, i), trained=str(f))  # type: ignore[misc]
        outcome = deletion("exact_head", request(base, train, 0), public_features=True)()
        outcome.task = task
        place = str(outcome.save(Path(scratch) / "head"))
        rest = train.subset(list(range(1, len(train))), "train")
        ways["exact_head"] = lambda i: deletion("exact_head", request(outcome.model, rest, i), statistics=place,
                                                public_features=True)
        found = {name: [seconds(way(i)) for i in range(REPEATS)] for name, way in ways.items()}
    for name in ("s3t", "exact_head"):
        median = 1000 * statistics.median(found[name])
        save(compared(f"{name}_deletion", found[name], found["sisa"], what=f"speed of one deletion by {name}", at_least=1.0,
                      against="the same deletion by SISA (5 shards, 4 slices, 30 epochs)", milliseconds=round(median, 1),
                      limit_ms=LIMIT_MS, within_limit=median < LIMIT_MS))
        print(f"{name}: {median:.1f} ms of processor time (limit {LIMIT_MS})")


if __name__ == "__main__":
    main()
