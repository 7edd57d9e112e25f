"""Run a method of several calls in a folder: what a test kills and repeats.

    killed_script.py FOLDER OUT [SECONDS_PER_STEP]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import tiny
import torch
from torch import nn

from lethe.core.modules import named_tensors
from lethe.core.outcome import Outcome
from lethe.core.task import Task
from lethe.models.classification.task import Classification
from lethe.train.checkpoint import save_tensors
from lethe.train.loop import Loop, Modifiers, Settings, Term
from lethe.train.watchdog import Watchdog

CALLS, STEPS = 4, 10


class Dropping(nn.Module):
    """An MLP with dropout and batch norm: its steps depend on torch's own generator and on buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.drop, self.b = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.drop(torch.relu(self.norm(self.a(x)))))


def dropping() -> Task:
    torch.manual_seed(0)
    splits = {name: tiny.blobs(n, n, name) for name, n in (("forget", 40), ("retain", 90), ("holdout", 41))}
    return Classification(Dropping(), splits)


def run(task: Task, folder: Path | None, pause: float = 0.0, every: float = 0.0) -> Outcome:
    """Like SCRUB: turns of ascent and descent, each a call; one optimiser has momentum, the other two moments."""
    loop = Loop(task, Settings(seed=3, checkpoint_seconds=every), Modifiers(average={"name": "ema", "decay": 0.8}),
                Watchdog(loss=95), folder)
    model = loop.start()
    said = loop.reference("logits", task.outputs, task.forget)

    def away(m: nn.Module, batch: object) -> torch.Tensor:
        time.sleep(pause)
        return -task.divergence(said(batch), task.outputs(m, batch), batch)

    for turn in range(CALLS):
        ascent = turn % 2 == 0
        terms = {"forget": Term(task.forget, away)} if ascent else {"retain": Term(task.retain, task.nll)}
        loop.minimise(model, terms, lr=1e-2, steps=STEPS, batch_size=16, optimiser="sgd" if ascent else "adam",
                      weight_decay=1e-3, schedule="cosine", batch_norm="update")
    return loop.finish(model)


if __name__ == "__main__":
    torch.set_num_threads(1)
    outcome = run(dropping(), Path(sys.argv[1]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
    meta = {"steps": outcome.cost.steps, "examples": outcome.cost.examples, "notes": outcome.notes}
    save_tensors(Path(sys.argv[2]), dict(named_tensors(outcome.model)), meta)
