"""One model of a pool: what determines it, how it is trained, and the file of the cache that holds it.

Member i is exactly what the method `retrain` makes with seed `member_seed(seed, i)`, wherever it is trained. Its file is
named by a digest of everything that determines it, and appears whole or not at all: a member with such a file is never
trained again, one without it or with a damaged one is, and several processes may work on one cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core import training
from lethe.core.config import digest
from lethe.core.events import Listener, Said, Units, silent
from lethe.core.identity import NUMBERS, code_of
from lethe.core.modules import named_tensors, state_fingerprint
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.errors import CheckpointCorrupted
from lethe.train.checkpoint import load_tensors, save_tensors
from lethe.train.loop import Loop, Settings
from lethe.train.modifiers.where.lora import of_recipe
from lethe.train.stop import Stop

Kept = tuple[dict[str, Tensor], dict[str, Any]]   # the tensors of a trained member, and facts about it


@dataclass(frozen=True)
class Member:
    """One model of a pool before it is trained. `key` names its file."""

    number: int
    seed: int
    split: Split
    key: str

    def file(self, folder: Path) -> Path:
        return folder / f"{self.key}.safetensors"

    def kept(self, folder: Path) -> Kept | None:
        """The trained member from the cache; None when it is missing or damaged."""
        return sound(self.file(folder))


@dataclass(frozen=True)
class Work:
    """Members that are yet to be trained, and the folder where they go: what a backend receives.

    listener  hears of every member that is done        stop  ends the work before the next member
    """

    task: Task
    members: Sequence[Member]
    device: str
    folder: Path
    listener: Listener = silent
    stop: Stop = field(default_factory=Stop)
    title: str = "models"

    def say(self, text: str) -> None:
        """A sentence about what happens next."""
        self.listener(Said(text))

    def units(self) -> Units:
        """Counts the members that are done."""
        return Units(self.listener, self.title, len(self.members))

    def shares(self, count: int) -> list[Work]:
        """The members dealt out round robin into at most `count` shares, none of them empty; shares print nothing."""
        count = min(count, len(self.members))
        return [replace(self, members=tuple(self.members[i::count]), listener=silent) for i in range(count)]


def sound(file: Path) -> Kept | None:
    """What a file of the cache holds; None when it is missing or damaged, and is to be made again."""
    try:
        return load_tensors(file) if file.exists() else None
    except CheckpointCorrupted:
        return None


def member_seed(seed: int, number: int) -> int:
    """The seed of the i-th model: `retrain` with this seed gives the same model."""
    return derive(seed, "pool", number)


def members_of(task: Task, count: int, seed: int, split_of: Callable[[int], Split] | None = None, device: str = "cpu"
               ) -> list[Member]:
    """The members 0 … count − 1 of a pool, each on `split_of(i)` (default: the retain set) with its own seed."""
    found = []
    for number in range(count):
        own, split = member_seed(seed, number), split_of(number) if split_of else task.retain
        found.append(Member(number, own, split, fingerprint(task, split, own, device)))
    return found


def fingerprint(task: Task, split: Split, seed: int, device: str) -> str:
    """A digest of everything that determines one model: data, recipe, seed, fresh weights and architecture, code."""
    fresh = task.build(derive(seed, "retrain"))
    architecture = [state_fingerprint(fresh), repr(fresh), str(getattr(fresh, "config", "")), code_of(fresh)]
    code = [NUMBERS, version("torch"), torch.device(device).type]
    return digest([task.family, split.fingerprint, training.identity(task.recipe), seed, architecture, code])


def train_one(
    task: Task, split: Split, seed: int, device: str = "cpu", seconds: float | None = None
) -> tuple[Loop, nn.Module]:
    """One model as `retrain` makes it; with `seconds`, only as far as that gets (at least one step)."""
    limit = None if seconds is None else seconds / 60
    loop = Loop(task, Settings(seed=seed, device=device, max_minutes=limit))
    model = loop.start(task.build(derive(seed, "retrain")), of_recipe(task))
    task.train(model, split, task.recipe, loop)
    return loop, loop.finish(model).model


def make(work: Work, member: Member) -> None:
    """Train one member and keep it, unless another process has done so since."""
    if member.kept(work.folder) is not None:
        return
    clock = Clock(work.device)
    _, model = train_one(work.task, member.split, member.seed, work.device)
    keep(work, member, named_tensors(model), clock.facts(1))


def make_all(work: Work) -> None:
    """Train every member of this work, one after the other."""
    with work.units() as units:
        for member in work.members:
            work.stop.check()
            make(work, member)
            units.done()


class Clock:
    """What a training took until it is asked: wall time and, where the processor does the work, its own, which no other work
    on the machine adds to."""

    def __init__(self, device: str) -> None:
        self._counts = torch.device(device).type == "cpu"
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def facts(self, models: int) -> dict[str, float | None]:
        """For each of `models` that were trained together."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {"seconds": wall / models, "cpu_seconds": cpu / models if self._counts else None}


def keep(work: Work, member: Member, tensors: dict[str, Tensor], took: Mapping[str, float | None]) -> None:
    """Write a trained member, whole or not at all. took: as `Clock` has it."""
    save_tensors(member.file(work.folder), tensors, {**took, "seed": member.seed})
