"""How much memory a forward pass leaves behind for its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def kept_bytes(forward: Callable[[], object], weights: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps of one forward pass, without those of the weights themselves."""
    known = {value.untyped_storage().data_ptr() for value in weights}
    found: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return value.detach()   # itself would keep the node that made it, and the node keeps what is returned

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        kept = forward()   # held until all is counted, so that no place is used twice
    del kept
    return sum(found.values())
