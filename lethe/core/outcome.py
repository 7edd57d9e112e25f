"""Outcome: what a method returns, and of which kind it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from lethe.core.evidence import Kind
from lethe.core.guard import Guard, bare, save_guard
from lethe.core.parked import released

if TYPE_CHECKING:
    from lethe.core.task import Task


@dataclass
class Cost:
    """What a run took. seconds: wall time of the method alone; passes: examples sent forward with gradients."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    steps: int = 0
    examples: int = 0
    peak_memory_mb: float = 0.0


UNSURE = "the watchdog cannot tell"   # how a note begins that says that the sample was too small


@dataclass(frozen=True)
class Fall:
    """Why the watchdog did not return the model that a method ended with.

    part      what it looked at: retain, holdout (unseen data), forget, or weights that are not finite
    metric    what was measured there; value, original: of the model that the method ended with, and of the original
    floor     the limit that was crossed
    step      steps of the run when it was judged      kept  steps after which the returned model stood; 0: the original
    """

    part: Literal["retain", "holdout", "forget", "weights"]
    metric: str
    value: float | None
    original: float | None
    floor: float | None
    step: int
    kept: int = 0


@dataclass
class Outcome:
    """The result of a method.

    model   the weights
    served  the guard that answers instead of the model (kind "guard"); None: the model itself answers
    kind    weights (changed), adapter (can be taken off again) or guard (at inference; the weights still know)
    trained  options with which the model was trained that it deletes from, where it brought them: they count, not the request's
    guarantee  what the method itself proves, for the certificate: {} or {level: exact | certified, basis, assumptions, …}
    fall    why the watchdog did not return what the method ended with; None: it did
    unchanged  the weights are bit for bit the original's, of a method that changes weights: nothing was done
    unseen_used  the method used unseen data: the half of holdout that audits leave to it
    search  the candidates of a search (`auto`), one mapping each; the chosen one has chosen = True
    export  (outcome, folder): writes what is not a plain model of the family; None: `task.save_model`
    """

    model: nn.Module
    method: str = ""
    kind: Kind = "weights"
    cost: Cost = field(default_factory=Cost)
    config: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)   # warnings a reader must see: stopped early, floor reached
    guarantee: dict[str, Any] = field(default_factory=dict)
    search: list[dict[str, Any]] = field(default_factory=list)
    fall: Fall | None = None
    unchanged: bool = False
    unseen_used: bool = False
    task: Task | None = None
    export: Callable[[Outcome, Path], None] | None = None
    served: Guard | None = None

    def __post_init__(self) -> None:
        if isinstance(self.model, Guard):   # passed as the model, a guard is taken apart
            self.served, self.kind = self.model, "guard"
            self.model = bare(self.model)
        if (self.served is None) == (self.kind == "guard"):
            raise ValueError(f"kind={self.kind!r} and served={type(self.served).__name__} do not belong together, so audits "
                             "would judge the wrong thing. A guard is served and has kind 'guard'; nothing else does.")

    @property
    def answering(self) -> nn.Module:
        """What predicts, generates and samples: the guard where there is one."""
        return self.model if self.served is None else self.served

    def save(self, folder: str | Path) -> Path:
        """Write the model in the format it came in, and its guard in `guard/`, atomically; an existing folder is an error, and so
        are files that do not give back what was audited."""
        from lethe.core.files import new_folder

        assert self.task is not None
        with new_folder(Path(folder)) as place:
            if self.export is not None:
                self.export(self, place)
            else:
                self.task.save_model(self.model, place)
            self.task.require_saved(released(self.model), place)
            if self.served is not None:
                save_guard(self.served, place)
        return Path(folder)
