"""Guard: stop a run that ruins the model, and give back its last sound point."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, config
from lethe.core.modules import evaluating
from lethe.core.seeds import generator
from lethe.core.task import Task


@config
class Guard:
    """Stop when the score on a part of the retain set falls below `floor` times the original's."""

    floor: Fraction = 0.5        # share of the original's score                        [ours]
    examples: Count = 256        # retain examples that are looked at                   [ours]
    checks: Count = 20           # looks during a run                                   [ours]


class Watch:
    """The guard at work in one run. `best` holds the moved parameters at the last sound look."""

    def __init__(self, guard: Guard, task: Task, device: str, seed: int) -> None:
        self.guard, self.task, self.device = guard, task, device
        split = task.splits.get("retain") or task.splits["holdout"]
        order = torch.randperm(len(split), generator=generator(seed, "guard"))[: guard.examples]
        self.split = split.subset(order.numpy(), "guard")
        self.before = self._score(task.original)
        self.best: dict[str, Tensor] = {}
        self.now = self.before

    def due(self, step: int, total: int) -> bool:
        return step % max(1, total // self.guard.checks) == 0 or step == total

    def fell(self, model: nn.Module, params: Mapping[str, nn.Parameter]) -> bool:
        """Whether the score is below the floor; then the last sound point is put back."""
        self.now = self._score(model)
        sound = self.now >= self.guard.floor * self.before if self.before > 0 else self.now >= self.before / self.guard.floor
        if sound:
            self.best = {name: p.detach().clone() for name, p in params.items()}
        else:
            with torch.no_grad():
                for name, value in self.best.items():
                    params[name].copy_(value)
        return not sound

    def message(self, step: int) -> str:
        return (f"stopped at step {step}: {self.task.score_name} on retained data fell to {self.now:.3f}, below "
                f"{self.guard.floor:g} of the original's {self.before:.3f}; the last sound point was kept")

    def _score(self, model: nn.Module) -> float:
        total, count = 0.0, 0
        with evaluating(model):
            for number, batch in enumerate(self.split.batches(256)):
                drawn = self.task.draw(batch, generator(0, "guard", number), False).to(self.device)
                score = self.task.observe(model, drawn)["score"]
                total, count = total + float(score.sum()), count + len(batch)
        mean = total / count
        return mean if mean == mean else float("-inf")
