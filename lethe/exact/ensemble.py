"""Ensemble: the mean of several models of one architecture, as one model with one linear head.

    mean_k (W_k f_k(x) + b_k)  =  [W_1/m … W_m/m] · [f_1(x); …; f_m(x)] + mean_k b_k

A member that is out of service has no share in the head; its body is that of the base, so the ensemble keeps its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lethe.core.modules import copied, evaluating
from lethe.errors import ModelError, NeedsUnmet


class Ensemble(nn.Module):
    """`members` copies of `base` whose heads are one.

    head  name of the linear layer that ends `base`; the joint head has the same name, so that features are found by it
    """

    def __init__(self, base: nn.Module, head: str, members: int) -> None:
        super().__init__()
        last = base.get_submodule(head)
        if not isinstance(last, nn.Linear):
            raise ModelError(f"the head {head!r} is a {type(last).__name__}, and an ensemble is joined by its linear heads; "
                             "nothing was started. Name the last linear layer: model.head.")
        body = copied(base, trainable=True)
        body.set_submodule(head, nn.Identity())
        self.bodies = nn.ModuleList([copied(body, trainable=True) for _ in range(members)])
        joint = nn.utils.skip_init(nn.Linear, members * last.in_features, last.out_features, bias=last.bias is not None)
        nn.init.zeros_(joint.weight)
        if joint.bias is not None:
            nn.init.zeros_(joint.bias)
        *path, name = head.split(".")
        place: nn.Module = self
        for part in path:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.add_module(name, joint)
        self._head = head

    @property
    def joint(self) -> nn.Linear:
        """The head of all members together."""
        return cast(nn.Linear, self.get_submodule(self._head))

    def single(self) -> nn.Module:
        """One model of the members' architecture; what it knows is to be loaded."""
        model, joint = copied(self.bodies[0], trainable=True), self.joint
        width, bias = joint.in_features // len(self.bodies), joint.bias is not None
        model.set_submodule(self._head, nn.utils.skip_init(nn.Linear, width, joint.out_features, bias=bias))
        return model

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """[n, …], as the members take it -> [n, K]"""
        outputs: Tensor = self.joint(torch.cat([body(*inputs, **named).flatten(1) for body in self.bodies], 1))
        return outputs


def assembled(base: nn.Module, head: str, members: Sequence[Mapping[str, Tensor] | None]) -> Ensemble:
    """The ensemble of these states of `base`; None: out of service. NeedsUnmet when all are."""
    live = sum(state is not None for state in members)
    if not live:
        raise NeedsUnmet("nothing that was trained is free of the deleted records, so there is no model left to serve; nothing "
                         "was changed. Provide the retained data, so that shards can be retrained.")
    joined = Ensemble(base, head, len(members))
    joint = joined.joint
    width = joint.in_features // len(members)
    with torch.no_grad():
        for k, state in enumerate(members):
            if state is None:
                continue
            joined.bodies[k].load_state_dict({key: value for key, value in state.items() if not key.startswith(f"{head}.")})
            joint.weight[:, k * width : (k + 1) * width] = state[f"{head}.weight"] / live
            if joint.bias is not None:
                joint.bias.add_(state[f"{head}.bias"] / live)
    return joined.eval()


def require_last(base: nn.Module, head: str, ask: Callable[[nn.Module], Tensor]) -> None:
    """ModelError when the model computes something after its head: then the mean of the heads is not the mean of the models.

    ask  a model's answers for a few examples
    """
    one = assembled(base, head, [base.state_dict()])
    with evaluating(base):
        own, joined = ask(base), ask(one)
    if own.shape != joined.shape or not torch.allclose(own, joined, rtol=1e-4, atol=1e-5):   # float32 rounding
        raise ModelError(f"{type(base).__name__} computes more after its head {head!r}, so its members cannot be joined there; "
                         "nothing was started. Name the layer that ends the model: model.head.")
