"""What an audit sees: one model (`Subject`) beside a `Panel` (the original, retrained references, shadow models)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from lethe.core.evidence import Kind
from lethe.core.guard import Guard, bare
from lethe.core.modules import copied, differentiable, evaluating
from lethe.core.passes import columns, drawn, rows
from lethe.core.split import Split
from lethe.core.task import Task


@dataclass(frozen=True)
class Procedure:
    """How a model was made from the original, repeatable on other models, data and seeds.

    key       names code and options; equal keys mean the same procedure
    run       (task, seed) -> the unlearned model
    retrains  whether it ignores the original and trains on the retain set
    """

    key: str
    run: Callable[[Task, int], nn.Module]
    retrains: bool = False
    weights: bool = True   # whether the result has the tensors of the original, so that it can be kept as such
    heir: bool = True      # whether it starts from what the original knows


@dataclass(eq=False)
class Subject:
    """One model under examination. `seen(split)` is everything the audits need from one forward pass, kept.

    model   the weights: features, gradients, attacks that change them
    served  the guard that answers instead of them, if any. A guard passed as `model` is taken apart
    """

    name: str
    model: nn.Module
    task: Task
    seconds: float | None = None     # wall time of making it, where known
    device: str = "cpu"
    batch_size: int = 256
    siblings: Sequence[Subject] = ()   # models made by the same procedure with other seeds
    procedure: Procedure | None = None   # how it was made, where known: shadow models are unlearned in the same way
    kind: Kind = "weights"           # as the method reports it
    served: Guard | None = None
    cpu_seconds: float | None = None   # the processor's time of making it, where known
    heir: bool = False                 # known to come from the original: no training of another length explains what it shows
    _seen: dict[int, tuple[Split, dict[str, Tensor]]] = field(default_factory=dict, repr=False)   # by id of the split
    _losses: dict[int, tuple[Split, Tensor]] = field(default_factory=dict, repr=False)
    _bare: Subject | None = field(default=None, repr=False)   # itself without the guard, once features were needed

    def __post_init__(self) -> None:
        if isinstance(self.model, Guard):
            self.served, self.kind = self.model, "guard"
            self.model = bare(self.model)

    @property
    def answering(self) -> nn.Module:
        """What predicts, generates and samples: audits of behaviour ask it, audits of weights `model`."""
        return self.model if self.served is None else self.served

    def seen(self, split: Split) -> dict[str, Tensor]:
        """`task.observe` over the whole split, in its order: key -> [n, …] on the CPU. One pass per (model, split)."""
        if id(split) not in self._seen:
            model = self.answering.to(self.device)
            batches = drawn(self.task, split, self.batch_size, ("audit", split.name), device=self.device, sweep=True)
            with evaluating(model):
                self._seen[id(split)] = split, columns(lambda batch: self.task.observe(model, batch), batches, len(split))
        return self._seen[id(split)][1]

    def numbers(self, split: Split, key: str) -> np.ndarray:
        """One column of `seen` as float64."""
        return self.seen(split)[key].double().numpy()

    def losses(self, split: Split) -> np.ndarray:
        """`numbers(split, "nll")` where nothing else is asked of the split: what else a pass would tell is not computed.  [n]"""
        if id(split) in self._seen:
            return self.numbers(split, "nll")
        if id(split) not in self._losses:
            model = self.answering.to(self.device)
            with evaluating(model):
                found = self.task.losses(model, split, self.device)
                if found is None:
                    batches = drawn(self.task, split, self.batch_size, ("audit", split.name), device=self.device, sweep=True)
                    found = rows(lambda batch: self.task.loss_alone(model, batch), batches, len(split))
            self._losses[id(split)] = split, found
        return self._losses[id(split)][1].double().numpy()

    def features(self, split: Split) -> np.ndarray:
        """`task.features` of each example as float64: from `seen` where the family observes them, else one pass.  [n, d]

        They are the weights' own: a guarded model's features are read without the guard.
        """
        if self.served is not None:
            self._bare = self._bare or self.like(self.model, self.name)
            return self._bare.features(split)
        seen = self.seen(split)
        if "features" not in seen:
            model = self.model.to(self.device)
            batches = drawn(self.task, split, self.batch_size, ("features", split.name), device=self.device)
            with evaluating(model):
                seen["features"] = rows(lambda batch: self.task.features(model, batch).float(), batches, len(split))
        return seen["features"].flatten(1).double().numpy()

    def like(self, model: nn.Module, name: str) -> Subject:
        """Another model, examined in the same way: what an attack made of this one."""
        return Subject(name, model, self.task, device=self.device, batch_size=self.batch_size)

    def copy(self) -> nn.Module:
        """A trainable copy, for attacks that change the model."""
        return differentiable(copied(self.model, trainable=True))
