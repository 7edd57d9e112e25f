"""where: which parameters move? A member is a file of this folder with one config class that has

    select(model, task, loop) -> Selection

It may also change the model in place (LoRA adds adapters).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from lethe.core.evidence import Kind
from lethe.core.split import Batch, Split
from lethe.core.task import Task


@runtime_checkable
class Adds(Protocol):
    """A member that adds parameters to layers: it keeps to the layers that a method moves."""

    def within(self, params: Iterable[str]) -> Where:
        """The same on the layers of these parameters alone."""
        ...


@dataclass
class Selection:
    """Parameters that move, by name, and for some of them a boolean mask of the entries that do.

    spared  for some matrices [out, in] an orthonormal basis [in, k]: what they answer to inputs in its span stays
    rest  in words, what a reader might expect to move and does not; mostly empty
    """

    params: dict[str, nn.Parameter]
    masks: dict[str, Tensor] = field(default_factory=dict)
    kind: Kind = "weights"
    rest: str = ""
    spared: dict[str, Tensor] = field(default_factory=dict)


class Draws(Protocol):
    """What a member may ask of the run: its seed, and examples with their random draws."""

    @property
    def seed(self) -> int: ...

    def drawn(self, split: Split, batch_size: int, *purpose: object, train: bool = False) -> Iterator[Batch]:
        """Every example of `split` once, in order, on the device."""
        ...


class Where(Protocol):
    """What every member of this seam does."""

    def select(self, model: nn.Module, task: Task, loop: Draws) -> Selection:
        """The parameters of `model` that move, and masks [shape of the parameter] where only some entries do."""
        ...
