"""What the routers of a mixture of experts read, pass by pass."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from lethe.core.mixtures import Mixture, arriving, mixtures
from lethe.core.modules import evaluating
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.maths.answers import counted
from lethe.train.modifiers.where import Draws


def require_mixture(model: nn.Module, member: str) -> list[Mixture]:
    """The blocks of a mixture; RequestError for a model that is none."""
    if not (blocks := mixtures(model)):
        raise RequestError(f"where={member} is about the experts of a mixture, and {type(model).__name__} is none that was "
                           "recognised: no module has `experts` with a router beside them. Nothing was started. Leave "
                           "modifiers.where out.")
    return blocks


def router_states(model: nn.Module, task: Task, split: Split, loop: Draws, batch_size: int, purpose: str
                  ) -> Iterator[list[Tensor]]:
    """For each batch of a split what every router reads at its tokens, pads left out.  -> blocks × [tokens, d]"""
    blocks = mixtures(model)
    with arriving(blocks) as states, evaluating(model):
        for batch in loop.drawn(split, batch_size, purpose):
            task.nll(model, batch)
            real = counted(batch.length, batch.ids.shape[1]).flatten()
            yield [states[place].flatten(0, -2)[real] for place in range(len(blocks))]
