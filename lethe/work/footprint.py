"""What a run takes of memory, from its model and what moves: before anything is trained."""

from __future__ import annotations

from torch import nn

from lethe.core.adaptable import matrices
from lethe.train.modifiers.where import Where
from lethe.train.modifiers.where.lora import Lora

STATE = 12      # bytes of each number that moves: its gradient and the two moments of AdamW, in float32
AROUND = 0.15   # of the model, for activations and what a pass takes beside them; large models cut their batches for it   [ours]


def footprint(model: nn.Module, where: Where) -> float:
    """Bytes at the peak of a run that moves what `where` says of this model: itself, activations, gradients, AdamW's moments.

    The original does not count: of a large model it lies in a file while nobody asks it.
    """
    came = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    if isinstance(where, Lora):
        named = [name for name in matrices(model) if not where.targets or name.endswith(where.targets)]
        moving = sum(where.rank * sum(model.get_parameter(f"{name}.weight").shape[:2]) for name in named)
    else:
        moving = came or sum(p.numel() for p in model.parameters())
    return (1 + AROUND) * sum(p.nbytes for p in model.parameters()) + STATE * moving
