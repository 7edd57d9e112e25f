"""What can be done to any `nn.Module`, whatever its family."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lethe.core.parked import parked, parked_copy
from lethe.errors import ModelError, NotFinite, OutOfRange

T = TypeVar("T")
GIVEN: WeakSet[nn.Module] = WeakSet()   # models that their makers have given up: large ones, opened from a folder
NORMS = (nn.modules.batchnorm._BatchNorm,)


def copied(model: nn.Module, trainable: bool) -> nn.Module:
    """A deep copy that shares no storage with `model`; frozen and in eval mode unless `trainable`."""
    twin = copy.deepcopy(model)
    twin.train(trainable)
    if not trainable:
        twin.requires_grad_(False)
    return twin


class Asked(nn.Module):
    """`ask(model, *given)` as a module, so that parameters of the model, `model.…`, can be replaced for one call."""

    def __init__(self, model: nn.Module, ask: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.ask = model, ask

    def forward(self, *given: Any) -> Tensor:
        return self.ask(self.model, *given)


@contextmanager
def hooked(*handles: RemovableHandle) -> Iterator[None]:
    """Inside, these hooks stand; behind it, whatever happens, they are gone."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def given(model: nn.Module) -> nn.Module:
    """`model`, frozen and from now on never written to by whoever made it: a task takes it as it is instead of a copy."""
    GIVEN.add(model.eval().requires_grad_(False))
    return model


def private(model: nn.Module) -> nn.Module:
    """A frozen copy of `model` that nobody else holds, or itself where it was `given`; large ones in a file (`core.parked`)."""
    return parked(model) if model in GIVEN else parked_copy(model).eval().requires_grad_(False)


def differentiable(model: nn.Module) -> nn.Module:
    """The model, whose parameters require gradients, but for those that have none: codes of a quantised layer are integers."""
    for p in model.parameters():
        p.requires_grad_(p.is_floating_point())
    return model


def codes(params: Mapping[str, Tensor]) -> list[str]:
    """Names of those that are no numbers which could move, but codes of a quantised layer."""
    return [name for name, p in params.items() if not p.is_floating_point()]


def lent(model: nn.Module) -> nn.Module:
    """A trainable copy whose parameters still share storage with those of `model`; `own` takes those apart that will move."""
    memo: dict[int, object] = {id(p): nn.Parameter(p.data, requires_grad=True) if p.is_floating_point() else p
                               for p in model.parameters()}
    twin: nn.Module = copy.deepcopy(model, memo)
    return twin.train(True)


def own(params: Iterable[nn.Parameter], lender: nn.Module) -> None:
    """Give these parameters storage of their own where they share it with `lender`."""
    lenders = {p.data_ptr() for p in lender.parameters()}
    for p in params:
        if p.data_ptr() in lenders:
            p.data = p.data.clone()


def device_of(model: nn.Module) -> torch.device:
    """Where its weights are: what it is asked must be there too."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def has_convolutions(model: nn.Module) -> bool:
    """Whether it has a 2-d convolution with a square kernel above 1×1."""
    return any(isinstance(m, nn.Conv2d) and m.kernel_size[0] == m.kernel_size[1] > 1 for m in model.modules())


@contextmanager
def put_back(params: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters may move within, and have the values again that they had, which are given."""
    kept = [p.detach().clone() for p in params]
    try:
        yield kept
    finally:
        with torch.no_grad():
            for p, value in zip(params, kept, strict=True):
                p.copy_(value)


def seeded(build: Callable[[int], T], seed: int) -> T:
    """`build(seed)` with torch's generator at this seed too: the same weights at every call, in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(seed)


def reinitialised(model: nn.Module, seed: int) -> nn.Module:
    """A copy with freshly drawn weights, on the CPU, so that a seed means the same weights on every device.

    Raises ModelError when a parameter belongs to a module without `reset_parameters`, of a class that cannot draw itself:
    keeping its trained values would make "retrained" untrue (the SSD repository's retrain baseline has this fault).
    """
    twin = copied(model, trainable=True).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hasattr(twin, "_init_weights") and hasattr(twin, "config"):  # transformers: the class knows its scheme
            return type(twin)(twin.config).train()
        missed = [f"{name}.{key}".lstrip(".") for name, module in twin.named_modules() if not hasattr(module, "reset_parameters")
                  for key, _ in module.named_parameters(recurse=False)]
        if missed and hasattr(twin, "from_config"):   # diffusers: the class draws what no layer of it would
            kind: Any = type(twin)
            fresh: nn.Module = kind.from_config(twin.config)
            return fresh.train()
        if missed:
            raise ModelError(
                f"parameters {', '.join(missed[:5])} belong to modules without reset_parameters(), so a model rebuilt from "
                "scratch would keep their trained values. Pass `build=`, a function that returns a fresh model."
            )
        for module in twin.modules():
            draw: Any = getattr(module, "reset_parameters", lambda: None)
            draw()
    return twin


def state_fingerprint(model: nn.Module) -> str:
    """16 hex digits over names, shapes, types and bytes of parameters and buffers."""
    state = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, Tensor):   # what a quantised layer packs
            state.update(f"{name}{value!r}".encode())
            continue
        value = (value.int_repr() if value.is_quantized else value).detach().cpu().contiguous()
        state.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        state.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()[:16]


def require_finite(model: nn.Module, what: str) -> None:
    """NotFinite when a weight is NaN or infinite."""
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            count = int((~torch.isfinite(value)).sum())
            raise NotFinite(f"{what}: {count} values of {name!r} are NaN or infinite, so every result would be NaN. "
                            "Load a valid checkpoint.")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; restores the mode of every submodule."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a layer keeps running statistics of its batches."""
    return any(isinstance(module, NORMS) and module.track_running_stats for module in model.modules())


def freeze_batch_norm(model: nn.Module, keep: Container[str] = ()) -> None:
    """Put batch-norm layers in eval mode: running statistics are used and not updated.

    keep  names of parameters that move: layers that own one of them stay as they are, and so do layers without parameters
    """
    for path, module in model.named_modules():
        if isinstance(module, NORMS):
            own = [f"{path}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)]
            if not keep or (own and not any(name in keep for name in own)):
                module.eval()


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def filled(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The model with these values in its parameters and buffers, in eval mode. One that is no sum of its tensors
    (`lethe.models.fitted`) takes them in its own way: `put_tensors`."""
    put = getattr(model, "put_tensors", None)
    if put is not None:
        put(tensors)
        return model.eval()
    with torch.no_grad():
        for name, value in named_tensors(model).items():
            value.copy_(tensors[name])
    return model.eval()


# -- blocks: what "the last k layers" means ------------------------------------------------------------------------


def blocks(model: nn.Module) -> list[list[str]]:
    """Parameter names of each block, in the order of registration.

    A block is a member of a Sequential or ModuleList (a residual block, a decoder layer), or else the largest module that
    holds no such list; a normalisation layer belongs to the block before it. Tied parameters belong to their first owner,
    and parameters that sit directly on a module which is divided (class tokens) form blocks of their own.
    """
    own = dict(model.named_parameters())
    found: list[list[str]] = []
    for name, is_norm in _divided(model, "", False):
        inside = [key for key in own if key == name or key.startswith(f"{name}.")]
        if inside and is_norm and found:
            found[-1] += inside
        elif inside:
            found.append(inside)
    return found


def last_blocks(model: nn.Module, k: int) -> list[str]:
    """Parameter names of the last k blocks. OutOfRange when there are fewer."""
    groups = blocks(model)
    if k > len(groups):
        raise OutOfRange(f"k = {k}, but {type(model).__name__} has {len(groups)} blocks with parameters, so nothing was started. "
                         f"Choose k between 1 and {len(groups)}.")
    return [name for group in groups[-k:] for name in group]


def _divided(module: nn.Module, name: str, listed: bool) -> Iterator[tuple[str, bool]]:
    """(name, whether it normalises) of the blocks and loose parameters below a module."""
    is_list = isinstance(module, (nn.Sequential, nn.ModuleList))
    whole = bool(name) and not is_list and (listed or not any(map(_holds_list, module.modules())))
    if whole:
        yield name, "norm" in type(module).__name__.lower()
        return
    for key, _ in module.named_parameters(recurse=False):
        yield f"{name}.{key}".lstrip("."), False
    for key, child in module.named_children():
        yield from _divided(child, f"{name}.{key}".lstrip("."), is_list)


def _holds_list(module: nn.Module) -> bool:
    """Whether it is a list of at least two members with parameters."""
    if not isinstance(module, (nn.Sequential, nn.ModuleList)):
        return False
    return sum(any(True for _ in child.parameters()) for child in module) > 1
