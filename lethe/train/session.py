"""Session: what the calls of one run share: device, precision, processes, cost, notes, checkpoints, listeners."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.events import Listener, Warned, fan_out, silent
from lethe.core.modules import filled, named_tensors
from lethe.core.operations import frozen, handed_out, unlimited
from lethe.core.outcome import Cost
from lethe.core.seeds import derive, reseed
from lethe.core.split import Batch
from lethe.core.task import Task
from lethe.core.visiting import sent_home
from lethe.errors import RequestError
from lethe.train.checkpoint import Checkpoints
from lethe.train.distribute import Distribution, full
from lethe.train.journal import Log, TensorBoard
from lethe.train.settings import Settings
from lethe.train.step_size import StepSize
from lethe.train.stop import Stop
from lethe.train.terms import Modifiers
from lethe.train.watchdog import Watchdog


@dataclass
class Session:
    """The part of a run that its calls (`Run`) work in; `Loop` adds what methods use.

    listener  hears the events of the first process
    title     names the run in events
    stop      set by whoever wants the run to end after its step
    watched   where the watchdog's own needs are granted, if the method's view has fewer; None: by `task`
    identity  of the run, which its checkpoints carry: those of a run of other files are refused
    references  retrained models that are known, for the watchdog
    """

    task: Task
    settings: Settings = field(default_factory=Settings)
    modifiers: Modifiers = field(default_factory=Modifiers)
    watchdog: Watchdog | None = None
    folder: Path | None = None
    listener: Listener = silent
    title: str = ""
    stop: Stop | None = None
    watched: Task | None = None
    identity: str = ""
    references: Sequence[nn.Module] = ()

    def __post_init__(self) -> None:
        settings = self.settings
        self.task = unlimited(self.task)   # a loop and its modifiers may use any operation; data stay as granted
        if torch.device(settings.device).type == "cuda" and not torch.cuda.is_available():
            raise RequestError(f"device = {settings.device!r}, but torch sees no GPU here; nothing was started. "
                               "Use device='cpu', or 'auto' for the accelerator where there is one.")
        self.distribution = Distribution(settings.distribution, settings.device)
        self.checkpoints = Checkpoints(self.folder, self.identity)
        self.tell = self._readers()
        self.cost = Cost()
        self.step_size = StepSize(self.watchdog.tries if self.watchdog else 0)
        self.original_stays = False   # it is asked during the steps
        self.broken = False   # weights were not finite: the run has ended, at its last sound point
        self.notes: list[str] = []
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def device(self) -> str:
        return self.settings.device

    def note(self, text: str) -> None:
        """A sentence that belongs to the result; listeners hear it as a warning."""
        self.notes.append(text)
        self.tell(Warned(text))

    def _readers(self) -> Listener:
        if not self.distribution.first:
            return silent
        if self.folder is None:
            return self.listener
        curves = TensorBoard(self.folder) if self.settings.tensorboard else silent
        return fan_out(self.listener, Log(self.folder), curves)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of forward passes."""
        if self.settings.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.settings.device).type, torch.bfloat16)

    def on_device(self, batch: Batch) -> Batch:
        return batch if self.settings.device == "cpu" else batch.to(self.settings.device)

    def original_leaves(self) -> None:
        """A large original leaves the accelerator where nobody asks it during the steps: its answers lie in tables by then."""
        if not (self.original_stays or handed_out(self.task)):
            sent_home(frozen(self.task, ask=False))

    def reseed(self, *purpose: object) -> None:
        """Set torch's own generators, from which dropout draws."""
        reseed(derive(self.seed, *purpose), self.settings.device)

    def elapsed(self) -> float:
        """Seconds of work on this run so far, those before a resume included."""
        return self.cost.seconds + time.perf_counter() - self._began

    def standing(self) -> dict[str, Any]:
        """Cost and notes of the run so far; `resume_from` goes on from it."""
        cpu_seconds = self.cost.cpu_seconds + time.process_time() - self._cpu_began
        return {"steps": self.cost.steps, "examples": self.cost.examples, "seconds": self.elapsed(),
                "cpu_seconds": cpu_seconds, "notes": list(self.notes), "lowered": self.step_size.lowered, "broken": self.broken}

    def resume_from(self, standing: Mapping[str, Any]) -> None:
        cost = self.cost
        cost.steps, cost.examples, cost.seconds = standing["steps"], standing["examples"], standing["seconds"]
        cost.cpu_seconds, self.notes[:] = standing["cpu_seconds"], standing["notes"]
        self.step_size.lowered, self.broken = standing["lowered"], standing["broken"]
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Parameters and buffers by name, whole even when sharded."""
        return {name: full(value).detach() for name, value in named_tensors(model).items()}

    def restored(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
        """`model` with these tensors put in, in place."""
        if hasattr(model, "put_tensors"):
            return filled(model, tensors)
        with torch.no_grad():
            for name, value in named_tensors(model).items():
                value.copy_(self.distribution.like(tensors[name].to(value.device), value))
        return model
