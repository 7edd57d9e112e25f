"""Which layers of a decoder take low-rank adapters: the projections of attention, mixers and MLPs, found by what they are.

Names differ between architectures, so a layer is known by its place and kind: a linear layer (also GPT-2's Conv1D, whose matrix
lies the other way) inside a block of the text part. The head is outside, tied or not. Inside, no adapter goes on

    routers and gates of mixtures   they choose experts, and a small change of a choice is no small change of the answer
    experts in one fused tensor     transformers holds all experts of a block as one parameter, which is no layer
    state-space mixers              but for their `in_proj`: fused kernels read the others' matrices past the layer
"""

from __future__ import annotations

import re

from torch import nn

from lethe.core.adaptable import Adaptable
from lethe.models.lm import decoder

CHOOSES = re.compile(r"(^|_)(gate|router)$")   # gate, router, shared_expert_gate; not gate_proj
ENTRANCE = "in_proj"


def adaptable(model: nn.Module) -> Adaptable:
    """Names of the layers that take adapters, in the order of the blocks, and in words what of the blocks takes none."""
    stack = decoder.blocks(model)
    prefix = next(name for name, module in model.named_modules() if module is stack)
    layers, fused = [], set()
    for name, module in stack.named_modules(prefix=prefix):
        for child, layer in module.named_children():
            if _is_matrix(layer) and not _chooses(child, layer) and not (_is_state_space(module) and child != ENTRANCE):
                layers.append(f"{name}.{child}")
        fused |= {key for key, value in module.named_parameters(recurse=False) if value.dim() == 3 and min(value.shape) > 1}
    size = sum(value.numel() for name, value in stack.named_parameters() if name.rsplit(".", 1)[-1] in fused)
    whole = sum(value.numel() for value in model.parameters())
    rest = (f"{', '.join(sorted(fused))} of the experts ({size / whole:.0%} of the weights) are fused tensors and take no "
            "adapters: the experts stay as they are, and attention and shared layers move around them. Leave modifiers.where out "
            "to move the experts" if fused else "")
    return Adaptable(tuple(layers), rest)


def _is_matrix(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"


def _chooses(name: str, layer: nn.Module) -> bool:
    return bool(CHOOSES.search(name)) or "router" in type(layer).__name__.lower()


def _is_state_space(module: nn.Module) -> bool:
    own = dict(module.named_parameters(recurse=False))
    return "A_log" in own and "D" in own
