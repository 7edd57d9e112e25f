"""Backdoors in classifiers: expose them, recover the trigger, name the target label, find the units that carry them.

    exposure    make the model forget its clean function until a threshold; what survives is the backdoor (Li et al. 2024):
                wrong labels, ascent, magnitude pruning or an adversarial step on the weights
    trigger     min over mask m and picture p of  CE(f((1 − m)·x + m·p), t) + λ·Σ m  for every label t (Wang et al. 2019)
                n_t = Σ m of label t: a label that a far smaller trigger reaches than the others is the target
    unit masks  min over c ∈ [0, 1]^units of CE on clean data of the exposed model with units scaled by c; units that are not
                needed to bring the clean function back carry the backdoor (Li et al. 2023, arXiv:2305.14876)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.modules import NORMS

Ask = Callable[[Tensor], Tensor]   # inputs [n, …] -> logits [n, K]


@dataclass(frozen=True)
class Trigger:
    """What brings inputs to a label: x' = (1 − mask)·x + mask·picture. `success`: the share of inputs it brings there."""

    label: int
    mask: Tensor
    picture: Tensor
    size: float
    success: float

    def on(self, x: Tensor) -> Tensor:
        return (1 - self.mask) * x + self.mask * self.picture


def recover_trigger(ask: Ask, x: Tensor, label: int, steps: int = 200, lr: float = 0.1, weight: float = 0.02) -> Trigger:
    """The smallest trigger found that brings the inputs to `label`.  x [n, …]; the mask is shared by the channels of an image"""
    low, high = float(x.min()), float(x.max())
    shape = (1, *x.shape[2:]) if x.dim() == 4 else x.shape[1:]
    raw = torch.zeros(shape, device=x.device, requires_grad=True)      # mask ½ everywhere
    colour = torch.zeros(x.shape[1:], device=x.device, requires_grad=True)
    adam = torch.optim.Adam([raw, colour], lr=lr)
    target = torch.full((len(x),), label, device=x.device)
    for _ in range(steps):
        mask, picture = raw.sigmoid(), low + (high - low) * colour.sigmoid()
        loss = F.cross_entropy(ask((1 - mask) * x + mask * picture), target) + weight * mask.sum()
        adam.zero_grad()
        loss.backward(inputs=[raw, colour])
        adam.step()
    with torch.no_grad():
        mask, picture = raw.sigmoid(), low + (high - low) * colour.sigmoid()
        success = float((ask((1 - mask) * x + mask * picture).argmax(-1) == label).float().mean())
        return Trigger(label, mask, picture, float(mask.sum()), success)


def pruned_smallest(params: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The share of weights that is smallest, over all tensors together, set to zero.  name -> [shape]"""
    flat = torch.cat([p.detach().abs().flatten() for p in params.values()])
    count = round(share * flat.numel())
    threshold = flat.kthvalue(count).values if count else flat.new_tensor(-1.0)
    return {name: torch.where(p.detach().abs() <= threshold, torch.zeros_like(p), p.detach()) for name, p in params.items()}


def perturbed_up(params: Mapping[str, Tensor], gradients: Mapping[str, Tensor], radius: float) -> dict[str, Tensor]:
    """θ_l + radius · ‖θ_l‖ · g_l/‖g_l‖ for each tensor l: a step up the loss of the same relative size everywhere."""
    return {name: p.detach() + radius * p.detach().norm() * gradients[name] / gradients[name].norm().clamp(min=1e-12)
            for name, p in params.items()}


def units(model: nn.Module, head: str) -> dict[str, nn.Module]:
    """What can be switched off channel by channel: the norm layers where there are any, else convolutions and dense layers
    before the head."""
    named = dict(model.named_modules())
    norms: dict[str, nn.Module] = {name: m for name, m in named.items() if isinstance(m, NORMS) and m.affine}
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    return norms or {name: m for name, m in named.items() if isinstance(m, kinds) and name != head}


@contextmanager
def scaled(modules: Mapping[str, nn.Module], masks: Mapping[str, Tensor]) -> Any:
    """The outputs of the modules times their masks, channel by channel, while it is open.  masks name -> [C]"""
    def hook(mask: Tensor) -> Callable[..., Tensor]:
        return lambda module, args, out: out * (mask.view(1, -1, *[1] * (out.dim() - 2)) if out.dim() != 3 else mask)

    with ExitStack() as stack:
        for name, module in modules.items():
            handle = module.register_forward_hook(hook(masks[name]))
            stack.callback(handle.remove)
        yield


def unit_masks(ask: Ask, modules: Mapping[str, nn.Module], x: Tensor, y: Tensor, steps: int = 200, lr: float = 0.2
               ) -> dict[str, Tensor]:
    """c ∈ [0, 1] per channel, from 1 by projected descent on the loss of clean data.  name -> [C]"""
    masks = {name: torch.ones(len(m.weight), device=x.device, requires_grad=True) for name, m in modules.items()}  # type: ignore[arg-type]
    sgd = torch.optim.SGD(list(masks.values()), lr=lr, momentum=0.9)
    with scaled(modules, masks):
        for _ in range(steps):
            loss = F.cross_entropy(ask(x), y)
            sgd.zero_grad()
            loss.backward(inputs=list(masks.values()))
            sgd.step()
            with torch.no_grad():
                for mask in masks.values():
                    mask.clamp_(0, 1)
    return {name: mask.detach() for name, mask in masks.items()}
