"""How long a step takes: measured for a moment before a backend is chosen."""

from __future__ import annotations

import time

from lethe.core.task import Task
from lethe.pools.member import Member, train_one

PROBE = 0.2   # seconds that each way is measured


def seconds_per_step(task: Task, member: Member, device: str) -> float:
    """Measured on a model that is thrown away."""
    train_one(task, member.split, member.seed, device, seconds=1e-3)   # the first step pays for allocation
    began = time.perf_counter()
    loop, _ = train_one(task, member.split, member.seed, device, seconds=PROBE)
    return (time.perf_counter() - began) / loop.cost.steps


def duration(seconds: float) -> str:
    """In words, for a person: 12.3 s, 4 min."""
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
