"""NPO and RMU, full and LoRA, through the public call beside the plain formulation.     python -m speed.language --size tiny

25 steps of 16 forgotten and 16 retained texts on a Llama with random weights: `--device cuda --size 1.2b` is one of 1.24 B;
`--methods npo --forms full --steps 13 --epochs 10` is TOFU's forget05 as it is usually run.
Both ways start with the model and the data at hand, the model on the CPU, and end with the model; Lethe with its watchdog, as
users run it; the time of its steps alone, without what is asked of the original before and of the model after, is stored too.

seconds  of the whole way: on a device wall time, which is waited for; on the CPU processor time of one thread
memory   the most that was allocated on the device (`torch.cuda.max_memory_allocated`); on the CPU it is measured by
         `tests/work/memory_of.py`, each way in a process of its own
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lethe.api import forget
from lethe.core.events import Ended, Event, Started
from lethe.methods.lm.rmu import default_layer
from lethe.train.settings import Precision, Settings
from speed.common import RESULTS, compared, on_gpu, save, spent
from speed.language import plain
from speed.language.world import SIZES, World

STEPS, BATCH, KEPT = 25, 16, 4   # kept: retained texts for each that is forgotten
FORMS = ("full", "lora")
METHODS = ("npo", "rmu")
AT_LEAST = {"npo.full": 1.8}    # times faster, with the watchdog; the others: not slower
AT_MOST = {"npo.full": 0.78}    # of the plain way's memory
Found = dict[str, float]


class Steps:
    """A listener that times the steps."""

    def __init__(self, device: str) -> None:
        self.now = time.perf_counter if on_gpu(device) else time.process_time
        self.began, self.seconds = 0.0, 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self.began = self.now()
        elif isinstance(event, Ended):
            self.seconds += self.now() - self.began


def ours(world: World, method: str, form: str, device: str, precision: Precision, epochs: float = 1.0,
         watchdog: bool | None = None) -> Found:
    """Lethe's public call."""
    task, steps = world.task(), Steps(device)
    options: dict[str, Any] = {"epochs": epochs} if method == "npo" else {"steps": round(epochs * len(world.forget) / BATCH)}
    modifiers = {"where": {"name": "lora"}} if form == "lora" else None

    def run() -> None:
        forget(task, method, batch_size=BATCH, seed=0, settings=Settings(device=device, precision=precision), modifiers=modifiers,
               watchdog=watchdog, progress=steps, **options)

    return watched(run, device) | {"steps": steps.seconds}


def theirs(world: World, method: str, form: str, device: str, precision: Precision, epochs: float = 1.0) -> Found:
    """The plain formulation."""
    model = world.model()
    held, own = [model], {"layer": default_layer(SIZES[world.size].layers)} if method == "rmu" else {}
    del model

    def autocast() -> AbstractContextManager[Any]:
        return nullcontext() if precision == "float32" else torch.autocast(torch.device(device).type, torch.bfloat16)

    def run() -> None:
        batches = plain.pairs(world.forget, world.retain, round(epochs * len(world.forget) / BATCH), BATCH, device)
        plain.METHODS[method](held.pop().to(device), batches, autocast, lora=form == "lora", **own)

    return watched(run, device)


def watched(run: Callable[[], None], device: str) -> Found:
    """Seconds of a call and, on a device, the megabytes that it took there."""
    gc.collect()
    if on_gpu(device) and (before := torch.cuda.memory_allocated()) > 2**28:
        raise RuntimeError(f"{before / 1e6:.0f} MB were still on the device before the run, so its peak would be wrong")
    took = spent(run, device)
    return took | {"seconds": took["wall" if on_gpu(device) else "cpu"]}


def case(world: World, method: str, form: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The comparison of one method in one form: seconds and memory."""
    ways = {"lethe": partial(ours, world, method, form, given.device, given.precision, given.epochs),
            "plain": partial(theirs, world, method, form, given.device, given.precision, given.epochs)}
    found: dict[str, list[Found]] = {"lethe": [], "plain": []}
    for k in range(given.repeats):
        for way in list(ways)[:: 1 if k % 2 == 0 else -1]:
            found[way].append(ways[way]())
    bare = ours(world, method, form, given.device, given.precision, given.epochs, watchdog=False) if given.unwatched else None
    where = torch.cuda.get_device_name() if on_gpu(given.device) else "CPU"
    detail = {
        "device": where, "precision": given.precision, "size": given.size, "weights": world.weights, "batch": BATCH,
        "steps": given.steps, "epochs": given.epochs,
        "seconds_of_steps": [one["steps"] for one in found["lethe"]], "unwatched": bare,
    }
    key, own = f"{method}.{form}", f"language.{given.size}.{method}.{form}" + (f".{given.epochs:g}" if given.epochs != 1 else "")
    against = f"a plain formulation of OpenUnlearning's {method.upper()} ({where}, {given.precision})"

    def column(way: str, what: str) -> list[float]:
        return [one[what] for one in found[way]]

    judged, named = given.size == "1.2b", f"{method.upper()} {form}, {given.size}"
    results = [compared(f"{own}.seconds", column("lethe", "seconds"), column("plain", "seconds"), against=against,
                        what=f"{named}, {given.epochs:g} × {given.steps} steps with the watchdog, time",
                        at_least=AT_LEAST.get(key, 1.0) if judged or given.epochs >= 3 else None, **detail)]
    if on_gpu(given.device):
        results.append(compared(f"{own}.memory", column("lethe", "memory"), column("plain", "memory"), against=against,
                                what=f"{named}, peak memory as a share", at_most=AT_MOST.get(key, 1.0), **detail))
    return results


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m speed.language")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--epochs", type=float, default=1.0, help="passes over what is forgotten")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--unwatched", action="store_true", help="run Lethe once more without watchdog, and store it")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file that the results are merged into")
    given = parser.parse_args()
    if not on_gpu(given.device):
        torch.set_num_threads(1)
    warm = World("tiny", BATCH, KEPT * BATCH, given.device)
    for form in given.forms:   # what the first call of a process loads is no cost of either way
        ours(warm, "npo", form, given.device, given.precision)
        theirs(warm, "npo", form, given.device, given.precision)
    world = World(given.size, given.steps * BATCH, given.steps * BATCH * KEPT, given.device)
    for method in given.methods:
        for form in given.forms:
            save(*case(world, method, form, given), path=given.results)


if __name__ == "__main__":
    main()
