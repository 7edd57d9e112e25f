"""Of a mixture of experts everything, but the routers only where retained tokens do not notice.

GRIP (2026), arXiv:2601.16905: a method may hide knowledge by sending what is asked to other experts, which whoever holds the
weights undoes. The routers' change is projected on the null space of what they read of R:

    W_l ← W_l⁰ + (W_l − W_l⁰)(I − U_l U_lᵀ)   after every step,     U_l the leading eigenvectors of E_{x∈R} h_l(x) h_l(x)ᵀ

h_l what router l reads at a token, as many of them as have the share `energy` of the squared length. A router's bias stays.
Only the abstract was read: projected is the change after every step of any optimiser, not the gradient. A router chooses as
before of what the original's layers would give it; where the layers below move, choices change all the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, config
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.train.modifiers.where import Draws, Selection
from lethe.train.routing import require_mixture, router_states


@config
class Grip:
    energy: Fraction = 0.999    # share of the squared length of R's states that is held [tested in test_grip]   [ours]
    batch_size: Count = 32      # examples per pass, of no matter to the sum [tested in test_grip]               [ours]

    def select(self, model: nn.Module, task: Task, loop: Draws) -> Selection:
        blocks = require_mixture(model, "grip")
        if not task.has("retain"):
            raise RequestError("where=grip holds the routing of retained data, and this method has none; nothing was started. "
                               "Choose a method that needs retained data, or leave modifiers.where out.")
        moments: list[Tensor] = []
        for states in router_states(model, task, task.retain, loop, self.batch_size, "grip"):
            more = [seen.double().T @ seen.double() for seen in states]
            moments = [a + b for a, b in zip(moments, more, strict=True)] if moments else more
        params, spared = dict(task.trainable(model)), {}
        named = {id(p): name for name, p in model.named_parameters()}
        for block, moment in zip(blocks, moments, strict=True):
            weight = block.router.get_parameter("weight")
            for p in block.router.parameters():
                if p is not weight:
                    params.pop(named[id(p)], None)
            if named[id(weight)] in params:
                spared[named[id(weight)]] = leading(moment, self.energy).to(weight)
        held = ", ".join(f"{basis.shape[1]} of {basis.shape[0]}" for basis in spared.values())
        return Selection(params, spared=spared,
                         rest=f"routers move only where retained tokens do not notice: they stay in {held} dimensions")


def leading(moment: Tensor, energy: float) -> Tensor:
    """The fewest eigenvectors with the share `energy` of the trace, the largest first.  [d, d] -> [d, k]

    leading(diag(8, 1, 1), 0.9): two, e_1 and one of the others.
    """
    values, vectors = torch.linalg.eigh(moment)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    count = int((values.cumsum(0) < energy * values.sum() * (1 - 1e-12)).sum()) + 1
    basis: Tensor = vectors[:, : min(count, len(values))]
    return basis
