"""How far a candidate of a search lies from a model that never saw the forget set, on the part of the data that a search may see.

    D = D_forget + D_utility,  p = exp(−ℓ) of each example: the probability of the label, of the text
    with models j that never saw the forget set   D_forget = mean |p − mean_j p_j| on forget
    without                                       D_forget = distance of the quantiles of p(forget) to those of p_original(U), U
                                                  unseen examples with the same labels; 0 instead where a label leaves altogether
    D_utility = mean |p − p_original| on the rest of the unseen data; beside models j: mean |p − mean_j p_j|. Where classes leave,
                the original is one of these for other labels; records with wrong labels change what it says of all data
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from lethe.core.alike import of_classes_that_leave
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.judge.panel import Panel
from lethe.judge.selection import halves, other
from lethe.pools.subject import Subject

RESAMPLES = 400   # of the examples, to see how much of a difference is chance     [ours]


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen of one model, example by example.

    forget   p, or its distance to models that never saw the forget set     utility  distance on the rest
    """

    forget: np.ndarray
    utility: np.ndarray


class Scorer:
    """Distances on the selection part. beside: models that never saw the forget set; none: unseen data stand for them."""

    def __init__(self, task: Task, device: str = "cpu", beside: Sequence[nn.Module] = ()) -> None:
        self.device, self.view, self.other = device, task.replaced(forget=halves(task.forget)[0]), other(task)
        panel = Panel(self.view, self._subject(task.original), [])
        removed, gone = panel.removed(self.other), task.has("retain") and of_classes_that_leave(task.forget, task.retain)
        self.target, self.strange = np.zeros(0), np.zeros(1)
        self.rest = probability(panel.original, self.other)
        self.counts = np.ones(len(self.other), dtype=bool) if beside else ~removed
        self.among: list[Seen] = []   # of the models beside, each as seen by the others
        if beside:
            said = [[probability(self._subject(model), split) for split in (self.view.forget, self.other)] for model in beside]
            own = self.rest if gone else None
            self.target, self.rest = between(said, own, removed)
            self.among = [self._apart(one, between(said[:at] + said[at + 1:], own, removed))
                          for at, one in enumerate(said) if len(said) > 1]
            return
        like = panel.unseen() if task.has("holdout") else np.ones(len(self.other), dtype=bool)
        if not gone and like.any():
            self.strange = self.rest[like]   # what is predicted for unseen examples like these

    def seen(self, model: nn.Module) -> Seen:
        """What one model says, example by example."""
        subject = self._subject(model)
        forget, rest = (probability(subject, split) for split in (self.view.forget, self.other))
        return self._apart((forget, rest), (self.target, self.rest))

    def _apart(self, said: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> Seen:
        """What one model says of (forget, rest) beside what others say."""
        (forget, rest), (target, elsewhere) = said, others
        return Seen(np.abs(forget - target) if len(target) else forget, np.abs(rest - elsewhere)[self.counts])

    def distances(self, seen: Seen) -> tuple[float, float]:
        """(D_forget, D_utility)."""
        return self._far(seen.forget, self.strange), float(seen.utility.mean())

    def nearer(self, one: Seen, than: Seen, share: float) -> bool:
        """Whether D of one is smaller in this share of resamples of the examples, the same for both."""
        rng, gains = np.random.default_rng(0), []
        for _ in range(RESAMPLES):
            f, u, s = (rng.integers(len(x), size=len(x)) for x in (one.forget, one.utility, self.strange))
            mine, theirs = (self._far(each.forget[f], self.strange[s]) + each.utility[u].mean() for each in (one, than))
            gains.append(mine < theirs)
        return float(np.mean(gains)) >= share

    def _far(self, forget: np.ndarray, strange: np.ndarray) -> float:
        return float(forget.mean()) if len(self.target) else wasserstein(forget, strange)

    def _subject(self, model: nn.Module) -> Subject:
        return Subject("candidate", model, self.view, device=self.device)


def between(said: Sequence[Sequence[np.ndarray]], own: np.ndarray | None, removed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What models say of (forget, rest) in the mean; of what is not removed with the original's own as one of them."""
    forget, rest = (np.mean(rows, 0) for rows in zip(*said, strict=True))
    if own is not None:
        rest = np.where(removed, rest, (own + len(said) * rest) / (1 + len(said)))
    return forget, rest


def probability(subject: Subject, split: Split) -> np.ndarray:
    """p = exp(−loss) of each example.  -> [n]"""
    p: np.ndarray = np.exp(-subject.numbers(split, "nll"))
    return p


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """Mean distance between equal quantiles of two samples.  [n], [m] -> ≥ 0"""
    places = (np.arange(max(len(x), len(y))) + 0.5) / max(len(x), len(y))
    return float(np.abs(np.quantile(x, places, method="hazen") - np.quantile(y, places, method="hazen")).mean())
