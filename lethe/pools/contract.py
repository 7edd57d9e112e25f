"""What a backend is: a way of training the members of a pool that are missing in the cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from lethe.errors import RequestError
from lethe.pools.member import Work


class Unsuitable(Exception):
    """Measuring showed that a backend cannot train this work; the message says why."""


class Backend(ABC):
    """One way of training. Every member ends as its file in `work.folder`; finished files are kept when it stops.

    measured   whether `auto` may take it: it starts nothing beyond this machine's cores, and its time can be estimated
    """

    measured: ClassVar[bool] = False

    def obstacle(self, work: Work) -> str:
        """Empty when it can train this work here; otherwise why not and what helps."""
        return ""

    @abstractmethod
    def train(self, work: Work) -> None:
        """Train all members. The first error of a member is raised, after those that were finished have been kept."""

    def seconds(self, work: Work, steps: int, step: float) -> float:
        """Estimated wall time; `step`: the seconds that one step of one model takes alone. Raises Unsuitable."""
        raise NotImplementedError(f"{type(self).__name__} cannot be measured")


def refused(strategy: str, why: str) -> RequestError:
    """The error for a requested backend that cannot be used."""
    return RequestError(f"strategy = {strategy!r} cannot be used: {why}; nothing was trained. Remove the obstacle, or use "
                        "strategy='auto', which chooses one that can be used.")
