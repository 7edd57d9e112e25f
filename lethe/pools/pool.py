"""Pools: many models retrained from scratch with different seeds, together, by the fastest way that was measured.

Model i is exactly what the method `retrain` makes with seed `member_seed(seed, i)`; only the way differs:

    loop        one after the other
    processes   one single-threaded worker per core, each as in `loop`: the same bits as `loop` on one thread
    vmap        together: weights stacked to [N, …], one forward and backward for all; equal to `loop` up to rounding. On a
                CPU every core stacks its share

`auto` measures every way that applies for a moment and takes the fastest. Finished models lie in the cache under a
digest of everything that determines them: a second call trains nothing, a killed pool goes on with what is missing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.config import digest
from lethe.core.modules import named_tensors, state_fingerprint
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.errors import RequestError, unknown_name
from lethe.pools.backends.processes import in_processes, why_no_processes, workers_for
from lethe.pools.backends.vmap import Stack, why_no_vmap
from lethe.train.checkpoint import load_tensors, save_tensors
from lethe.train.loop import Loop, Settings, recipe_options, recipe_terms
from lethe.train.order import batches_per_epoch

STRATEGIES = ("auto", "loop", "vmap", "processes")
NUMBERS = 1        # version of the trained numbers: raised when the same recipe and seed would give another model
PROBE = 0.2        # seconds that each way is measured
WORTH = 1.5        # seconds of work below which measuring would cost more than it saves


@dataclass
class Pool:
    """Retrained models in eval mode, in the order of their seeds.

    seconds   wall seconds that each model took where it was trained (together: an equal share)
    strategy  how those that were missing were trained; "cache" when none was
    reason    why this way, in words with numbers
    """

    models: list[nn.Module]
    seconds: list[float]
    strategy: str
    reason: str
    trained: int


@dataclass
class Member:
    """One model of the pool before it is trained."""

    number: int
    seed: int
    split: Split
    key: str


def member_seed(seed: int, number: int) -> int:
    """The seed of the i-th model: `retrain` with this seed gives the same model."""
    return derive(seed, "pool", number)


def train_pool(
    task: Task,
    *,
    split_of: Callable[[int], Split] | None = None,
    count: int = 16,
    seed: int = 0,
    strategy: str = "auto",
    cache: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
    device: str = "cpu",
) -> Pool:
    """Train `count` models by the task's recipe, each on `split_of(i)` (default: the retain set) with its own seed."""
    if strategy not in STRATEGIES:
        raise unknown_name("pool strategy", strategy, STRATEGIES)
    split_of = split_of or (lambda number: task.retain)
    recipe = task.recipe
    members = []
    for number in range(count):
        own, split = member_seed(seed, number), split_of(number)
        members.append(Member(number, own, split, fingerprint(task, split, own, device)))
    with ExitStack() as stack:
        scratch = "" if cache else stack.enter_context(TemporaryDirectory(prefix="lethe-pool-"))
        folder = (cache or Path(scratch)) / "pool"
        missing = [m for m in members if not _file(folder, m).exists()]
        if not missing:
            chosen, reason = "cache", f"all {count} models were in the cache"
        else:
            steps = math.ceil(recipe.epochs * batches_per_epoch(missing[0].split, recipe.batch_size))
            chosen, reason = _choose(task, missing, steps, strategy, device)
            progress(f"training {len(missing)} of {count} models: {reason}")
            _train(task, missing, chosen, device, folder, progress)
        loaded = [load_tensors(_file(folder, m)) for m in members]
    models = [
        filled(task.build(derive(member.seed, "retrain")), tensors)
        for member, (tensors, _) in zip(members, loaded, strict=True)
    ]
    return Pool(models, [meta["seconds"] for _, meta in loaded], chosen, reason, len(missing))


def fingerprint(task: Task, split: Split, seed: int, device: str) -> str:
    """A digest of everything that determines one model: data, recipe, seed, fresh weights and architecture, code."""
    fresh = task.build(derive(seed, "retrain"))
    architecture = [state_fingerprint(fresh), repr(fresh), str(getattr(fresh, "config", ""))]
    code = [NUMBERS, version("torch"), torch.device(device).type]
    return digest([task.family, split.fingerprint, task.recipe, seed, architecture, code])


def train_one(
    task: Task, split: Split, seed: int, device: str = "cpu", seconds: float | None = None
) -> tuple[Loop, nn.Module]:
    """One model as `retrain` makes it; with `seconds`, only as far as that gets (at least one step)."""
    limit = None if seconds is None else seconds / 60
    loop = Loop(task, Settings(seed=seed, device=device, max_minutes=limit))
    model = loop.start(task.build(derive(seed, "retrain")))
    loop.minimise(model, recipe_terms(task, split), **recipe_options(task.recipe))
    return loop, loop.finish(model).model


# -- choosing ----------------------------------------------------------------------------------------------------------


def _choose(task: Task, missing: Sequence[Member], steps: int, asked: str, device: str) -> tuple[str, str]:
    """The strategy and why, in words."""
    obstacles = {"processes": why_no_processes(device), "vmap": why_no_vmap(task, [m.split for m in missing], device)}
    if asked != "auto":
        why = obstacles.get(asked) or (asked == "vmap" and _stacked(task, missing[:2], device).disagreement())
        if why:
            raise _refused(asked, why)
        return asked, f"{asked} was asked for"
    if len(missing) == 1:
        return "loop", "loop: a single model"
    first = missing[0]
    each = steps * _seconds_per_step(task, first, device)
    times = {"loop": each * len(missing)}
    if times["loop"] < WORTH:
        return "loop", f"loop: about {times['loop']:.1f} s of work, too short to gain from anything else"
    if not obstacles["processes"]:
        workers = workers_for(len(missing))
        rates = in_processes([lambda: _seconds_per_step(task, first, device)] * workers, workers)
        times["processes"] = steps * max(rates) * math.ceil(len(missing) / workers)
    if not obstacles["vmap"]:
        shares = _shares(missing, device)
        tried = _each([partial(_tried, task, share, device) for share in shares])
        obstacles["vmap"] = next((why for why, _ in tried if why), "")
        if not obstacles["vmap"]:
            times["vmap"] = steps * max(seconds for _, seconds in tried)
    best = min(times, key=lambda name: times[name])
    said = ", ".join(f"{name} about {_duration(t)}" for name, t in sorted(times.items(), key=lambda item: item[1]))
    without = "".join(f"; not {name}: {why}" for name, why in obstacles.items() if why)
    return best, f"{best}: {len(missing)} models of {steps} steps, measured {said}{without}"


def _seconds_per_step(task: Task, member: Member, device: str) -> float:
    train_one(task, member.split, member.seed, device, seconds=1e-3)   # the first step pays for allocation
    began = time.perf_counter()
    loop, _ = train_one(task, member.split, member.seed, device, seconds=PROBE)
    return (time.perf_counter() - began) / loop.cost.steps


def _refused(strategy: str, why: str) -> RequestError:
    return RequestError(f"strategy = {strategy!r} cannot be used: {why}; nothing was trained. "
                        "Use strategy='auto', which takes what applies.")


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


# -- training ----------------------------------------------------------------------------------------------------------


def _train(
    task: Task, missing: Sequence[Member], strategy: str, device: str, folder: Path, progress: Callable[[str], None]
) -> None:
    if strategy == "vmap":
        _each([partial(_together, task, share, device, folder) for share in _shares(missing, device)])
        return

    def make(member: Member) -> None:
        began = time.perf_counter()
        _, model = train_one(task, member.split, member.seed, device)
        seconds = time.perf_counter() - began
        save_tensors(_file(folder, member), dict(named_tensors(model)), {"seconds": seconds, "seed": member.seed})

    jobs = [lambda member=member: make(member) for member in missing]
    if strategy == "processes":
        in_processes(jobs, workers_for(len(jobs)), progress)
        return
    for done, job in enumerate(jobs, 1):
        job()
        progress(f"{done} of {len(jobs)} models")


def _shares(missing: Sequence[Member], device: str) -> list[Sequence[Member]]:
    """The members dealt out to the cores, where more than one process can work."""
    workers = 1 if why_no_processes(device) else workers_for(len(missing))
    return [missing[i::workers] for i in range(workers)]


def _each(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    return [job() for job in jobs] if len(jobs) == 1 else in_processes(jobs, len(jobs))


def _stacked(task: Task, share: Sequence[Member], device: str) -> Stack:
    return Stack(task, [m.split for m in share], [m.seed for m in share], device)


def _tried(task: Task, share: Sequence[Member], device: str) -> tuple[str, float]:
    """(why these cannot be stacked or empty, seconds per step)."""
    stack = _stacked(task, share, device)
    why = stack.disagreement()
    return why, 0.0 if why else stack.seconds_per_step(PROBE)


def _together(task: Task, share: Sequence[Member], device: str, folder: Path) -> None:
    stack = _stacked(task, share, device)
    began = time.perf_counter()
    trained = stack.train()
    seconds = (time.perf_counter() - began) / len(share)
    for member, tensors in zip(share, trained, strict=True):
        save_tensors(_file(folder, member), tensors, {"seconds": seconds, "seed": member.seed})


def _file(folder: Path, member: Member) -> Path:
    return folder / f"{member.key}.safetensors"


def filled(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """The model with these values in its parameters and buffers, in eval mode."""
    with torch.no_grad():
        for name, value in named_tensors(model).items():
            value.copy_(tensors[name])
    return model.eval()
