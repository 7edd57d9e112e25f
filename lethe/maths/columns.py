"""Columns of the layers that write an MLP's result: what each does to the probability of answers.

    a_lj = Σ_x Σ_t m_lj(x, t) · ∂ log p(answer) / ∂ m_lj(x, t)

m_lj(x, t) what column j of layer l is multiplied by at token t: to first order, what would be lost if the column were zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from lethe.core.modules import hooked
from lethe.core.split import Batch


def columns(writer: nn.Module) -> Tensor:
    """The weight of a layer as [width, inner], whichever way the layer stores it; writing into it changes the layer."""
    weight = cast(Tensor, writer.weight).detach()
    return weight if isinstance(writer, nn.Linear) else weight.T


@contextmanager
def multiplied(writers: Sequence[nn.Module], change: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Inside, what enters each layer, [n, T, inner], is replaced by `change(layer, m)`."""
    handles = [writer.register_forward_pre_hook(lambda _, args, layer=layer: (change(layer, args[0]), *args[1:]))
               for layer, writer in enumerate(writers)]
    with hooked(*handles):
        yield


def attribution(writers: Sequence[nn.Module], batches: Iterable[Batch], logp: Callable[[Batch], Tensor]) -> Tensor:
    """a of every column, summed over the examples.  -> [L, inner]

    logp  log p of each answer, [n], or of each of its tokens, [n, A]
    """
    total: Tensor | None = None
    for batch in batches:
        caught: list[Tensor] = []

        def catch(layer: int, m: Tensor, caught: list[Tensor] = caught) -> Tensor:
            caught.append(m if m.requires_grad else m.detach().requires_grad_(True))
            return caught[-1]

        with torch.enable_grad(), multiplied(writers, catch):
            grads = torch.autograd.grad(logp(batch).sum(), caught)
        part = torch.stack([(m.detach() * g).sum((0, 1)) for m, g in zip(caught, grads, strict=True)]).cpu()
        total = part if total is None else total + part
    assert total is not None
    return total
