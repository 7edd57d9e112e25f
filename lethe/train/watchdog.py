"""Watchdog: stop a run that ruins the model, and return its last good point.

It is on wherever there are retained (or holdout) data, unless it is turned off (`watchdog: false`). A model whose score on a part
of them falls below the floor is ruined. Soon after the start the learning rate is blamed and lowered (see `step_size`), later
the run ends at the last good point; the notes of the outcome record either.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Natural, config
from lethe.core.modules import evaluating
from lethe.core.operations import unlimited
from lethe.core.passes import drawn
from lethe.core.seeds import generator
from lethe.core.task import Task
from lethe.errors import NeedsUnmet
from lethe.train.distribute import full

NEEDS = ("original", "retain?", "holdout?")   # of holdout its reserved half, and only where there is no retain


@config
class Watchdog:
    """Stop when the score on a part of the retain set falls below `floor` times the original's."""

    floor: Fraction = 0.5        # share of the original's score                        [ours]
    examples: Count = 128        # retain examples that are scored                      [ours]
    checks: Count = 10           # checks during a call of the loop                      [ours]
    tries: Natural = 3           # times that a learning rate is lowered      [ours]


class Watch:
    """The watchdog at work in one run. `sound` holds what moves (and buffers) as it was at the last good check.

    task  what `NEEDS` are granted of: not the method's view, which may have less. What is taken of it is counted there.
    """

    def __init__(self, watchdog: Watchdog, task: Task, device: str, seed: int) -> None:
        self.watchdog, self.device = watchdog, device
        self.task = task = unlimited(task).granted(NEEDS)   # it scores on its own account
        if not (task.has("retain") or task.has("holdout")):
            raise NeedsUnmet("the watchdog reads retained (or holdout) data, and the task has neither, so a ruined model would "
                             "go unnoticed. Provide retain data, or run without a watchdog.")
        split = task.retain if task.has("retain") else task.holdout
        order = torch.randperm(len(split), generator=generator(seed, "guard"))[: watchdog.examples]
        self.split = split.subset(order.numpy(), "watchdog")
        self.now = self.before = self._score(task.original.to(device))
        self.moving: Mapping[str, Tensor] = {}
        self.sound: dict[str, Tensor] = {}

    def begin(self, moving: Mapping[str, Tensor]) -> None:
        """A call starts with these tensors; the start is a good point."""
        self.moving = moving
        self._keep()

    def due(self, step: int, total: int) -> bool:
        return step % max(1, total // self.watchdog.checks) == 0 or step == total

    def fell(self, model: nn.Module) -> bool:
        """Whether the score is below the floor or a weight is not finite; then the last good point is restored."""
        self.now = self._score(model)
        fell = self.now < self.floor or not all(bool(full(value).isfinite().all()) for value in self.moving.values())
        if not fell:
            self._keep()
        else:
            with torch.no_grad():
                for name, value in self.sound.items():
                    self.moving[name].copy_(value)
        return fell

    @property
    def floor(self) -> float:
        """Scores below this mean a ruined model. Of a negative score (a negated error), the allowed one is before/floor."""
        if self.before > 0:
            return self.watchdog.floor * self.before
        return self.before / self.watchdog.floor if self.watchdog.floor else float("-inf")

    def message(self, step: int, lowered: float | None = None) -> str:
        """What happened at a step; `lowered`: to which learning rate."""
        what = f"stopped at step {step}" if lowered is None else f"learning rate lowered to {lowered:.3g} at step {step}"
        then = "the last good point was kept" if lowered is None else "the call started again"
        return (f"{what}: {self.task.score_name} on retained data was {self.now:.3f}, below {self.watchdog.floor:g} of the "
                f"original's {self.before:.3f}, or weights were not finite; {then}")

    def _keep(self) -> None:
        self.sound = {name: value.detach().clone() for name, value in self.moving.items()}

    def _score(self, model: nn.Module) -> float:
        total, count = 0.0, 0
        with evaluating(model):
            for batch in drawn(self.task, self.split, 256, ("guard",), device=self.device):
                score = self.task.observe(model, batch)["score"]
                total, count = total + float(score.sum()), count + len(batch)
        mean = total / count
        return mean if mean == mean else float("-inf")


def usual(task: Task) -> Watchdog | None:
    """The watchdog of a run that names none: on where there are data to score on."""
    return Watchdog() if task.has("retain") or task.has("holdout") else None
