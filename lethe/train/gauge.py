"""Gauge: how many points of its score a model lost, on a sample that is no larger than it must be.

Scores of all families lie between 0 and 1; a point is a hundredth. The differences are paired by example:

    loss = mean(before_i − now_i),    error = √(Σ (before_i − now_i − loss)² + m²) / n

m is the largest difference seen (1 where all are 0), so that a small sample without any difference is not taken for certainty.
before is the original's score. Where retrained models are known and more than the floor was lost, it is their mean, if that is
less: what retraining costs as well is no fault, and of no method is asked to be better than the model that it began with.
A sample is doubled until the floor lies two errors away, or as many as may be asked for are reached: all there are, where
something was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lethe.core.engine import Loss
from lethe.core.modules import device_of, evaluating
from lethe.core.parked import released
from lethe.core.passes import drawn
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.core.visiting import fetched, sent_home

LEAST = 64   # examples of the first sample                                                               [ours]


@dataclass(frozen=True)
class Found:
    """One comparison. loss, error: shares, not points; n: examples; retrained: with retrained models, not with the original."""

    part: str
    before: float
    now: float
    loss: float
    error: float
    n: int
    retrained: bool = False

    def over(self, floor: float) -> bool:
        """Whether more than `floor` was lost, beyond the error of the sample."""
        return not self.loss - self.error <= floor   # NaN is over

    def doubtful(self, floor: float) -> bool:
        """Whether it may be more than `floor`, which the sample is too small to tell."""
        return not self.over(floor) and self.loss + self.error > floor


class Gauge:
    """The original's and the retrained models' scores on samples of parts of the data, as far as they were asked for."""

    def __init__(self, task: Task, parts: Mapping[str, Split], device: str,
                 precision: Callable[[], AbstractContextManager[object]] = nullcontext, references: Sequence[nn.Module] = ()
                 ) -> None:
        """parts: shuffled samples, by name. precision: of forward passes, as the run has it. references: retrained models."""
        self.task, self.parts, self.device, self.precision = task, parts, device, precision
        self.references = references
        self.most = max(map(len, parts.values()), default=0)   # examples of a part that are asked for while nothing is lost
        self.looked = torch.empty(0, dtype=torch.float64)   # what the last comparison found of its model
        self.known: dict[str, Tensor] = {}   # of the model that is settled next: scores by part, as far as they are known
        self.asked = 0   # examples put to a model so far
        self.before = {name: torch.empty(0, dtype=torch.float64) for name in parts}
        self.retrained = dict(self.before)   # mean of the references

    def compare(self, model: nn.Module, part: str, n: int, floor: float) -> Found:
        """The first n examples of a part."""
        self.looked = now = self._scores(model, part, 0, n)
        return self._milder(self._found(part, self._known(part, n), now), floor,
                            lambda: self._found(part, self._taught(part, n), now))

    def settle(self, model: nn.Module, part: str, floor: float) -> Found:
        """As many examples as tell whether more than `floor` was lost."""
        return self._milder(self._settled(model, part, floor, self._known), floor,
                            lambda: self._settled(model, part, floor, self._taught))

    def _milder(self, found: Found, floor: float, retrained: Callable[[], Found]) -> Found:
        """The comparison with the original, or with retrained models where they have lost something, too."""
        if found.loss <= floor or not self.references:
            return found
        other = retrained()
        return replace(other, retrained=True) if other.loss < found.loss else found

    def _settled(self, model: nn.Module, part: str, floor: float, known: Callable[[str, int], Tensor]) -> Found:
        n = 0
        now = self.known.get(part, torch.empty(0, dtype=torch.float64))
        while True:
            n = min(len(self.parts[part]), 2 * n or LEAST)
            if len(now) < n:
                now = torch.cat([now, self._scores(model, part, len(now), n)])
            found = self._found(part, known(part, n), now[:n])
            enough = n >= self.most and found.loss <= 0
            if n == len(self.parts[part]) or enough or abs(found.loss - floor) >= 2 * found.error:
                return found

    def ask_original(self, part: str, n: int) -> None:
        """The original's scores of the first n examples of a part, so that they are known from now on."""
        self._known(part, n)

    def original(self, part: str, n: int) -> float:
        """The original's mean score on the first n examples of a part."""
        return float(self._known(part, n).mean())

    def mean_nll(self, model: nn.Module, part: str, n: int) -> float:
        """Mean training loss on the first n examples of a part."""
        return float(self._asked(model, part, 0, n, self.task.nll).mean())

    def predictions(self, model: nn.Module, part: str, n: int) -> Tensor:
        """The numbers that a regression predicts for the first n examples of a part.  -> [n, h]"""
        return self._asked(model, part, 0, n, lambda m, batch: self.task.observe(m, batch)["prediction"])

    def _known(self, part: str, n: int) -> Tensor:
        have = self.before[part]
        if len(have) < n:
            away = device_of(self.task.original).type != "cpu"
            more = self._scores(fetched(self.task.original, self.device), part, len(have), n)
            self.before[part] = have = torch.cat([have, more])
            released(self.task.original if away else sent_home(self.task.original))
        return have[:n]

    def _taught(self, part: str, n: int) -> Tensor:
        """The mean score of the references, by example."""
        have = self.retrained[part]
        if len(have) < n:
            more = [self._scores(one.to(self.device), part, len(have), n) for one in self.references]
            self.retrained[part] = have = torch.cat([have, torch.stack(more).mean(0)])
            for one in self.references:
                released(one.cpu())
        return have[:n]

    def _scores(self, model: nn.Module, part: str, start: int, stop: int) -> Tensor:
        return self._asked(model, part, start, stop, self.task.score)

    def _asked(self, model: nn.Module, part: str, start: int, stop: int, ask: Loss) -> Tensor:
        """Answers for examples start to stop, in blocks whose bounds and draws do not depend on how many are asked for."""
        found = []
        with evaluating(model), self.precision():
            for begin in range(start, stop, LEAST):
                block = self.parts[part].subset(range(begin, min(begin + LEAST, stop)), "watchdog")
                for batch in drawn(self.task, block, LEAST, ("guard", begin), device=self.device):
                    values = ask(model, batch).detach().double().cpu()
                    self.asked += len(batch)
                    found.append(values[torch.argsort(batch.index.cpu())])
        return torch.cat(found)

    def _found(self, part: str, before: Tensor, now: Tensor) -> Found:
        difference = before - now
        n, loss = len(difference), float(difference.mean())
        largest = float(difference.abs().max()) or 1.0
        error = (float((difference - loss).square().sum()) + largest**2) ** 0.5 / n
        return Found(part, float(before.mean()), float(now.mean()), loss, error, n)
