"""Many devices, directly on torch: replicated ("ddp") or sharded ("fsdp", FSDP2 `fully_shard`) under torchrun.

Replication sums the gradients that the loop has collected with one flat all-reduce per step instead of wrapping the
model in `DistributedDataParallel`: objectives call the model several times per step and read inner layers, which a
wrapper's forward hook would not see. The numbers are those of one process on the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lethe.errors import RequestError

KINDS = ("none", "ddp", "fsdp")


class Distribution:
    """One process's place among its peers. `kind='none'` is a world of one."""

    def __init__(self, kind: str = "none") -> None:
        if kind not in KINDS:
            raise RequestError(f"distribution = {kind!r} is not one of {', '.join(KINDS)}, so nothing was started.")
        self.kind, self.rank, self.size = kind, 0, 1
        if kind == "none":
            return
        if "RANK" not in os.environ:
            raise RequestError(f"distribution = {kind!r} needs one process per device, but this one was started alone. "
                               "Start it with: torchrun --nproc-per-node N -m lethe …")
        if not dist.is_initialized():
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    @property
    def first(self) -> bool:
        return self.rank == 0

    def place(self, model: nn.Module) -> nn.Module:
        """Shard the model in place (fsdp); replicas start equal because every process makes the same model."""
        if self.kind == "fsdp":
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            kind = "cuda" if torch.cuda.is_available() else "cpu"
            fully_shard(model, mesh=init_device_mesh(kind, (self.size,)))
        return model

    def share(self, index: Tensor) -> Tensor:
        """This process's part of a batch."""
        return index[self.rank :: self.size]

    @property
    def loss_scale(self) -> float:
        """FSDP averages gradients over processes; the loop divides by the whole batch, so the mean must become a sum."""
        return float(self.size) if self.kind == "fsdp" else 1.0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Sum gradients over processes in place (ddp); FSDP has done it during backward."""
        if self.kind == "ddp" and self.size > 1:
            flat = torch.cat([t.reshape(-1) for t in tensors])
            dist.all_reduce(flat)
            start = 0
            for t in tensors:
                t.copy_(flat[start : start + t.numel()].view_as(t))
                start += t.numel()

    def like(self, value: Tensor, reference: Tensor) -> Tensor:
        """A full tensor laid out as `reference` is."""
        if hasattr(reference, "placements"):
            from torch.distributed.tensor import distribute_tensor

            return distribute_tensor(value, reference.device_mesh, reference.placements)
        return value

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def full(value: Tensor) -> Tensor:
    """The whole of a possibly sharded tensor. Collective: every process must call it."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
