"""combine: how do the gradients of several terms meet? A member is a file of this folder with one config class that has

    step(terms, gradients, apply)

`gradients(names)` returns the gradient of the weighted sum of these terms, `apply` takes one optimiser step with it. A member
that keeps something from step to step (an average, a multiplier) has, beside it or in its place,

    recalling(params, memory)

which returns what takes the steps of one run. It keeps tensors in `memory`, which checkpoints hold. A member that is an optimiser
of its own says `takes_steps = True`: what it applies to several terms is then subtracted as it is, times the learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

Gradients = list[Tensor]                             # one per parameter that moves, in its shape
Ask = Callable[[Sequence[str]], Gradients]           # names of terms -> gradient of their weighted sum
Apply = Callable[[Gradients], None]                  # takes one optimiser step
Memory = dict[str, Tensor]                           # kept from step to step; `what/parameter` is laid out as the parameter


class Combine(Protocol):
    """What every member of this seam does."""

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        """One step over the named terms."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """A member that keeps something from step to step."""

    def recalling(self, params: Mapping[str, nn.Parameter], memory: Memory) -> Combine:
        """What takes the steps of one run over these parameters; all that it keeps is in `memory`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Recalling:
    """A `Remembers` that takes the steps itself: a record with a `step` that, within a run, knows these two."""

    params: Mapping[str, nn.Parameter] = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)

    def recalling(self, params: Mapping[str, nn.Parameter], memory: Memory) -> Self:
        return replace(self, params=params, memory=memory)


Member = Combine | Remembers   # what a run is given: it takes the steps, or says what takes them


def takes_steps(member: Member, terms: Sequence[str]) -> bool:
    """Whether what it applies to these terms is the step, so that the method's optimiser and clip have no part in it."""
    return len(terms) > 1 and bool(getattr(member, "takes_steps", False))


def sides(terms: Sequence[str], term: str) -> tuple[list[str], list[str]]:
    """One of several terms (the first where none is called so), and all the others."""
    own = term if term in terms else terms[0]
    return [own], [other for other in terms if other != own]


def apart(terms: Sequence[str], term: str, gradients: Ask) -> tuple[Gradients, Gradients]:
    """The gradients of the two `sides`."""
    own, others = sides(terms, term)
    return gradients(own), gradients(others)


def inner(one: Gradients, other: Gradients) -> Tensor:
    """Their inner product over all parameters, in float32.  -> []"""
    return torch.stack([(a.float() * b.float()).sum() for a, b in zip(one, other, strict=True)]).sum()
