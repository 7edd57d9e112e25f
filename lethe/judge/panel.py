"""What a subject is seen beside: the original, retrained references, shadow models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.core.task import Task

if TYPE_CHECKING:
    from lethe.pools.shadows import Shadows
from lethe.pools.alike import in_range, labelled, unseen, valued
from lethe.pools.subject import Subject


@dataclass(eq=False)
class Panel:
    """What a subject is seen beside. When the subject is a reference, it is not in `references`."""

    task: Task
    original: Subject               # declare needs={"original"} to use it: it may not be there
    references: list[Subject]
    depth: str = "standard"
    seed: int = 0
    published: dict[str, Any] = field(default_factory=dict)   # audits keep what is the same for all subjects here
    retrained: bool = False                                   # whether the subject is itself one of the references
    shadows: Shadows | None = None                            # declare needs={"shadows"} to use them

    def once(self, key: str, make: Any) -> Any:
        """`make()` computed once for all subjects."""
        if key not in self.published:
            self.published[key] = make()
        return self.published[key]

    def part(self, split: Split, limit: int) -> Split:
        """A seeded sample of at most `limit` examples, the same for all subjects."""
        if len(split) <= limit:
            return split

        def draw() -> Split:
            rng = numpy_generator(self.seed, "audit part", split.name, limit)
            return split.subset(np.sort(rng.permutation(len(split))[:limit]), split.name)

        return self.once(f"part {split.name} {limit}", draw)

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
        """Which examples of `split` have a label that is to vanish: it is in the forget set and not retained.  [n]

        Of real targets: those in the range of the forget set, when no retained one is.
        """
        if not self.task.has("retain"):
            return np.zeros(len(split), dtype=bool)
        if valued(self.task):
            alone = not in_range(self.task, self.task.retain).any()
            return in_range(self.task, split) & alone
        if not labelled(self.task):
            return np.zeros(len(split), dtype=bool)
        gone = set(self.task.forget.columns["y"].tolist()) - set(self.task.retain.columns["y"].tolist())
        return np.isin(split.columns["y"].numpy(), list(gone))

    def unseen(self) -> np.ndarray:
        """Which holdout examples are like the forget set but never seen.  [n] bool"""
        return unseen(self.task)

