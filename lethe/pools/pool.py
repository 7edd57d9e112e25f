"""Pools: many models retrained from scratch with different seeds, by the backend that was requested or measured fastest.

Model i is exactly what the method `retrain` makes with seed `member_seed(seed, i)`; only the way differs
(`lethe/pools/backends/`): `serial`, `processes`, `gpus`, `slurm` and `ray` return the same bits on the same number of
threads, `vmap` the same up to rounding. Finished models lie in the cache: a second call trains nothing, a killed pool
goes on with what is missing, a damaged file is trained again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from lethe.core.events import Listener, silent
from lethe.core.modules import filled
from lethe.core.parked import parked
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.pools import backends
from lethe.pools.backends import AUTO, backend
from lethe.pools.member import Member, Work, members_of
from lethe.pools.strategy import chosen
from lethe.train.checkpoint import load_tensors
from lethe.train.stop import Stop

FOLDER = "pool"   # of a cache


@dataclass
class Pool:
    """Retrained models in eval mode, in the order of their seeds.

    seconds   wall seconds that each model took where it was trained (together: an equal share)
    cpu_seconds  the processor's; None where that is not known (an accelerator, a cache of an older version)
    strategy  how those that were missing were trained; "cache" when none was
    reason    why this way, in words with numbers
    """

    models: list[nn.Module]
    seconds: list[float]
    cpu_seconds: list[float | None]
    strategy: str
    reason: str
    trained: int


@dataclass(frozen=True)
class Wanted:
    """A requested pool before it is trained: the arguments of `train_pool`, in a form that can be listed and dealt out.

    purpose   what it is for, in words: references, shadows, …
    seed      of the pool: member i has `member_seed(seed, i)`
    split_of  what member i is trained on; None: the retain set
    """

    purpose: str
    task: Task
    count: int
    seed: int
    split_of: Callable[[int], Split] | None = None
    device: str = "cpu"

    def members(self) -> list[Member]:
        return members_of(self.task, self.count, self.seed, self.split_of, self.device)

    def train(self, strategy: str = AUTO, cache: Path | None = None, listener: Listener = silent, stop: Stop | None = None
              ) -> Pool:
        return train_pool(self.task, split_of=self.split_of, count=self.count, seed=self.seed, strategy=strategy, cache=cache,
                          listener=listener, stop=stop, title=self.purpose, device=self.device)


def references(task: Task, count: int, seed: int, device: str = "cpu") -> Wanted:
    """The yardstick of a run with this seed: models retrained without the forget set."""
    return Wanted("references", task, count, derive(seed, "references"), device=device)


def fresh(task: Task, seed: int, device: str = "cpu") -> Wanted:
    """One more retrained model, outside the references: the row that a perfect method would equal."""
    return Wanted("fresh retrain", task, 1, derive(seed, "fresh retrain"), device=device)


def train_pool(
    task: Task,
    *,
    split_of: Callable[[int], Split] | None = None,
    count: int = 16,
    seed: int = 0,
    strategy: str = AUTO,
    cache: Path | None = None,
    listener: Listener = silent,
    stop: Stop | None = None,
    title: str = "models",
    device: str = "cpu",
) -> Pool:
    """Train `count` models by the task's recipe, each on `split_of(i)` (default: the retain set) with its own seed.

    stop    ends the work between two models; those that are done stay in the cache
    title   names the pool to the listener
    """
    backends.known(strategy)
    members = members_of(task, count, seed, split_of, device)
    with ExitStack() as stack:
        cache = cache if task.keeps() else None
        scratch = "" if cache else stack.enter_context(TemporaryDirectory(prefix="lethe-pool-"))
        folder = (cache or Path(scratch)) / FOLDER
        missing = [member for member in members if member.kept(folder) is None]
        name, reason = "cache", f"all {count} models were in the cache"
        if missing:
            name, reason = train(Work(task, missing, device, folder, listener, stop or Stop(), title), strategy, count)
        models, facts = [], []
        for member in members:   # one after the other: large ones go into files as they come
            tensors, own = load_tensors(member.file(folder))
            models.append(parked(filled(task.build(derive(member.seed, "retrain")), tensors)))
            facts.append(own)
        return Pool(models, [own["seconds"] for own in facts], [own.get("cpu_seconds") for own in facts], name, reason,
                    len(missing))


def train(work: Work, strategy: str, count: int) -> tuple[str, str]:
    """Train what is missing of a pool of `count`; (the backend that did, why this one)."""
    damaged = [member for member in work.members if member.file(work.folder).exists()]
    if damaged:
        work.say(f"{len(damaged)} models in the cache are damaged and are trained again: "
                 f"{', '.join(member.file(work.folder).name for member in damaged[:3])}")
    name, reason = chosen(work, strategy)
    purpose = "" if work.title == "models" else f" ({work.title})"
    few = "" if len(work.members) == count else f" of {count}, the others are in the cache"
    work.say(f"training {len(work.members)} {'model' if count == 1 else 'models'}{few}{purpose}")   # why this way: in the results
    backend(name).train(work)
    return name, reason
