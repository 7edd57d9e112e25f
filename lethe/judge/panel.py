"""What a subject is seen beside: the original, retrained references, shadow models."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lethe.core.alike import Beside, beside, leaving
from lethe.core.passes import sample
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.pools.subject import Subject

if TYPE_CHECKING:
    from lethe.pools.shadows import Shadows

T = TypeVar("T")


@dataclass(eq=False)
class Panel:
    """What a subject is seen beside. When the subject is a reference, it is not in `references`."""

    task: Task
    original: Subject               # declare needs={"original"} to use it: it may not be there
    references: list[Subject]
    depth: str = "standard"
    seed: int = 0
    published: dict[Hashable, Any] = field(default_factory=dict)   # what is the same for all subjects, see `once`
    retrained: bool = False                                   # whether the subject is itself one of the references
    shadows: Shadows | None = None                            # declare needs={"shadows"} to use them

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()` computed once for all subjects.

        key  a tuple of what the result depends on: the audit's name, its config, and subjects and splits themselves.
             These compare by identity, so two that happen to be called alike are never mixed up.
        """
        if key not in self.published:
            self.published[key] = make()
        value: T = self.published[key]
        return value

    def part(self, split: Split, limit: int) -> Split:
        """A seeded sample of at most `limit` examples, the same for all subjects."""
        rng = numpy_generator(self.seed, "audit part", split.name, limit)
        return split if len(split) <= limit else self.once(("part", split, limit), lambda: sample(split, limit, rng))

    def ensembles(self, subject: Subject, count: int) -> tuple[list[Subject], list[Subject]]:
        """(`count` models made like the subject, itself included; `count` references that are not among them).

        For a reference the others are divided at random. Two empty lists when there are too few on either side.
        """
        mine, pool = [subject, *subject.siblings], list(self.references)
        if self.retrained:
            order = numpy_generator(self.seed, "ensembles", subject.name).permutation(len(pool))
            pool = [pool[i] for i in order]
            mine, pool = [subject, *pool[: count - 1]], pool[count - 1 :]
        return (mine[:count], pool[:count]) if min(len(mine), len(pool)) >= count else ([], [])

    def removed(self, split: Split) -> np.ndarray:
        """Which examples of `split` leave with the forget set: of a class, a range or a group that is not retained.  [n]"""
        if not self.task.has("retain"):
            return np.zeros(len(split), dtype=bool)
        return self.once(("removed", split), lambda: leaving(split, self.task.forget, self.task.retain))

    def placebo(self, split: Split, most: int | None = None) -> np.ndarray:
        """Positions in an unseen split on which nothing was to change: all of them, or a seeded sample of at most so many."""
        def draw() -> np.ndarray:
            free = np.flatnonzero(~self.removed(split))
            order = numpy_generator(self.seed, "placebo", split.name).permutation(len(free))
            return np.sort(free[order[:most]])

        return self.once(("placebo", split, most), draw)

    def beside(self) -> Beside:
        """The holdout examples that are like the forget set but unseen, and which they are."""
        return self.once(("beside",), lambda: beside(self.task.forget, self.task.holdout))

    def unseen(self) -> np.ndarray:
        """Which holdout examples are like the forget set but unseen.  [n] bool"""
        return self.beside().mask
