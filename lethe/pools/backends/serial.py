"""One model after the other, in this process: the reference that every other backend is held against."""

from __future__ import annotations

from lethe.pools.contract import Backend
from lethe.pools.member import Work, make_all


class Serial(Backend):
    """Trains here, on the threads that torch has."""

    measured = True

    def train(self, work: Work) -> None:
        make_all(work)

    def seconds(self, work: Work, steps: int, step: float) -> float:
        return len(work.members) * steps * step
