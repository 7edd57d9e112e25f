"""Many devices, directly on torch: replicated ("ddp") or sharded ("fsdp", FSDP2 `fully_shard`) under torchrun.

Replication sums the gradients that the loop has collected with one flat all-reduce per step instead of wrapping the
model in `DistributedDataParallel`: objectives call the model several times per step and read inner layers, which a
wrapper's forward hook would not see. The numbers are those of one process on the whole batch.
"""

from __future__ import annotations

import atexit
import copy
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lethe.core.modules import named_tensors
from lethe.errors import RequestError

KINDS = ("none", "ddp", "fsdp")


class Distribution:
    """One process's place among its peers. `kind='none'` is a world of one."""

    def __init__(self, kind: str = "none", device: str = "cpu") -> None:
        if kind not in KINDS:
            raise RequestError(f"distribution = {kind!r} is not one of {', '.join(KINDS)}, so nothing was started.")
        self.kind, self.rank, self.size = kind, 0, 1
        self.device = torch.device(device).type
        if kind == "none":
            return
        if "RANK" not in os.environ:
            raise RequestError(f"distribution = {kind!r} needs one process per device, but this one was started alone. "
                               "Start it with: torchrun --nproc-per-node N -m lethe …")
        if self.device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))   # "cuda" then means this process's own
        if not dist.is_initialized():
            dist.init_process_group("nccl" if self.device == "cuda" else "gloo")
            atexit.register(_leave)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    @property
    def first(self) -> bool:
        return self.rank == 0

    def place(self, model: nn.Module) -> nn.Module:
        """Shard the model in place (fsdp), block by block where it has lists of blocks; replicas start equal because
        every process makes the same model."""
        if self.kind == "fsdp":
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            self._plain = _with_tensors(model, lambda t: t.to("meta"))
            mesh = init_device_mesh(self.device, (self.size,))
            for blocks in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
                for block in blocks:
                    fully_shard(block, mesh=mesh)
            fully_shard(model, mesh=mesh, reshard_after_forward=True)   # parameters are shards whenever nobody computes
        return model

    def gathered(self, model: nn.Module) -> nn.Module:
        """A plain model with whole tensors from a sharded one."""
        if self.kind != "fsdp":
            return model
        values = {name: full(value).detach() for name, value in named_tensors(model).items()}
        places = {id(empty): values[name] for name, empty in named_tensors(self._plain).items()}
        return _with_tensors(self._plain, lambda t: places[id(t)].clone()).requires_grad_(True)

    @property
    def loss_scale(self) -> float:
        """FSDP averages gradients over processes; the loop divides by the whole batch, so the mean must be a sum."""
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
        return laid_out(value, reference)

    def agree(self, flag: bool) -> bool:
        """The first process's decision, so that all do the same."""
        if self.size == 1:
            return flag
        shared = torch.tensor(int(flag), device=self.device)
        dist.broadcast(shared, 0)
        return bool(shared)

    def total(self, *values: float) -> list[float]:
        """Each value summed over processes."""
        if self.size == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(summed)
        return [float(value) for value in summed.tolist()]

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def laid_out(value: Tensor, reference: Tensor) -> Tensor:
    """A full tensor laid out as `reference` is."""
    if hasattr(reference, "placements"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value, reference.device_mesh, reference.placements)  # type: ignore[attr-defined]
    return value


def full(value: Tensor) -> Tensor:
    """The whole of a possibly sharded tensor. Collective: every process must call it."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _with_tensors(model: nn.Module, make: Callable[[Tensor], Tensor]) -> nn.Module:
    """A deep copy whose parameters and buffers are `make(…)` of the model's; tied ones stay tied."""
    memo: dict[int, Any] = {}
    for value in named_tensors(model).values():
        made = make(value)
        memo[id(value)] = nn.Parameter(made, value.requires_grad) if isinstance(value, nn.Parameter) else made
    return copy.deepcopy(model, memo)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
