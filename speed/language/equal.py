"""Time to equal forgetting at equal utility: Lethe's public call beside the plain formulation, on TOFU.

    LETHE_DATA=… python -m speed.language.equal

TOFU's forget05 as in the suite `sequences`: 10 of 40 authors, from a Llama of 0.4 M weights that knows them by heart (trained
here first, about 5 minutes; `--cache` keeps it). Both ways have the same four rates and the same numbers of passes. A way has
forgotten where the mean probability of a forgotten answer is at most `GONE` and that of a retained one at least `KEPT` of the
original's; its time is the shortest with which any rate gets there. Lethe runs with each of `--methods` and with its watchdog: as
it comes, which gives back what lost more than 3 points (`--watchdog usual`); told what the comparison allows (`allowing`,
watchdog.loss); or not at all (`none`). The plain way is OpenUnlearning's NPO with its retain loss.

seconds  processor time of one thread, of the whole call; looking at what came out is no part of it
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lethe.api import forget
from lethe.bench.suite import read
from lethe.core.modules import evaluating
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.train.watchdog import Watchdog
from lethe.work.open import tasks_of
from lethe.work.options import Options
from speed.common import RESULTS, compared, data_root, save
from speed.language import plain

GONE, KEPT = 0.2, 0.9
RATES, PASSES = (1e-4, 3e-4, 1e-3, 3e-3), (1.0, 2.0, 3.0, 5.0, 10.0)
METHODS = ("npo", "simnpo", "wga")
BATCH, LOOKED = 16, 200
Tried = dict[str, float]


def probability(task: Task, model: nn.Module, split: Split) -> float:
    """Mean probability of an answer's token."""
    places = torch.arange(len(split)).split(50)
    with evaluating(model):
        return float(torch.cat([task.score(model, split.batch(some.tolist())) for some in places]).mean())


def attempts(task: Task, way: Callable[[float, float], nn.Module], rate: float) -> Iterator[Tried]:
    """What a way reaches at a rate with more and more passes, and the time of each."""
    retain = task.retain.subset(range(LOOKED), "looked at")
    for passes in PASSES:
        began = time.process_time()
        model = way(rate, passes)
        took = time.process_time() - began
        yield {"rate": rate, "passes": passes, "seconds": took, "forgotten": probability(task, model, task.forget),
               "kept": probability(task, model, retain)}


def shortest(task: Task, way: Callable[[float, float], nn.Module], least: float) -> tuple[Tried | None, list[Tried]]:
    """The cheapest attempt that has forgotten and kept enough (None: none), and all of them."""
    every = []
    for rate in RATES:
        for one in attempts(task, way, rate):
            every.append(one)
            if gone(one, least):   # more passes take more time
                break
    return min((one for one in every if gone(one, least)), key=lambda one: one["seconds"], default=None), every


def gone(one: Tried, least: float) -> bool:
    return one["forgotten"] <= GONE and one["kept"] >= least


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m speed.language.equal")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--watchdog", choices=("usual", "allowing", "none"), default="usual")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file that the results are merged into")
    given = parser.parse_args()
    torch.set_num_threads(1)
    request = next(request for problem, request in read("sequences").problems() if problem.endswith("at once: forget05"))
    task: Any = tasks_of(request, Options(data_root=data_root(), cache=given.cache))[""]
    known = probability(task, task.original, task.retain.subset(range(LOOKED), "looked at"))
    least = KEPT * known
    watchdog = {"usual": None, "allowing": Watchdog(loss=100 * (known - least)), "none": False}[given.watchdog]

    def theirs(rate: float, passes: float) -> nn.Module:
        batches = plain.pairs(task.forget, task.retain, round(passes * len(task.forget) / BATCH), BATCH, "cpu")
        return plain.npo(task.copy_of_original(), batches, nullcontext, lr=rate)

    reference, every = shortest(task, theirs, least)
    print("plain npo:", reference, *every, sep="\n    ")
    for method in given.methods:
        def ours(rate: float, passes: float, method: str = method) -> nn.Module:
            return forget(task, method, lr=rate, epochs=passes, batch_size=BATCH, watchdog=watchdog, progress=False).model

        best, every = shortest(task, ours, least)
        print(f"lethe {method}:", best, *every, sep="\n    ")
        if best is not None and reference is not None:
            name = f"language.equal.{method}{'' if given.watchdog == 'usual' else f'.{given.watchdog}'}"
            save(compared(
                name, [best["seconds"]], [reference["seconds"]], at_least=3.0,
                what=f"{method}, time to equal forgetting at equal utility", against="OpenUnlearning's NPO, spelled out",
                best=best, plain=reference, gone=GONE, kept=KEPT, watchdog=given.watchdog), path=given.results)


if __name__ == "__main__":
    main()
