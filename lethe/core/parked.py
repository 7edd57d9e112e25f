"""Large tensors that nobody needs at the moment, in a file on disk that is mapped into memory.

A parked tensor is used like any other: its pages are read when they are touched. `released` gives them back, so that a frozen
model costs memory only while it is asked. The file has no name, so it is gone with the process, whatever ends it. It lies in
TMPDIR where that is set, else in /var/tmp, which is a disk where /tmp may be memory.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import mmap
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from weakref import WeakSet

import torch
from torch import Tensor, nn

LARGE = 2**26   # bytes from which a model or a state is parked: 16 M weights in float32                   [ours]
PAGE = mmap.PAGESIZE
M_MMAP_THRESHOLD = -3   # of glibc's mallopt


class _Map(mmap.mmap):
    """A mapped file, and where it lies."""

    start: int = 0

    @property
    def stop(self) -> int:
        return self.start + len(self)


_MAPS: WeakSet[_Map] = WeakSet()


def is_large(tensors: Iterable[Tensor]) -> bool:
    """Whether these tensors lie in ordinary memory and are worth a file."""
    tensors = list(tensors)
    return sum(t.nbytes for t in tensors if t.device.type == "cpu") >= LARGE


def put(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in a file, one tensor after the other; in memory where they are small, elsewhere than on the CPU, or no file can be
    had."""
    places, size = {}, 0
    for name, value in tensors.items():
        places[name], size = size, size + -(-value.nbytes // PAGE) * PAGE
    room = _room(size) if is_large(tensors.values()) and all(t.device.type == "cpu" for t in tensors.values()) else None
    if room is None:
        return {name: value.detach().clone() for name, value in tensors.items()}
    found = {}
    for name, value in tensors.items():
        if not value.numel():
            found[name] = value.detach().clone()
            continue
        kept = torch.frombuffer(room, dtype=value.dtype, count=value.numel(), offset=places[name]).view(value.shape)
        kept.copy_(value.detach())
        _give_back(room, places[name], value.nbytes)
        found[name] = kept
    return found


def _accountable() -> None:
    """Have glibc take blocks of 128 kB from the system and give them back when they are freed, from now on: it raises that limit
    by itself to 32 MB, and then keeps most of what activations, gradients and moments took (1.5 models of 30 M weights)."""
    with contextlib.suppress(AttributeError):
        _c("mallopt")(M_MMAP_THRESHOLD, 2**17)


def parked(model: nn.Module) -> nn.Module:
    """The model with its tensors in a file, in place, where it is large; tensors that are parked already stay."""
    held = {f"{i}": value for i, value in enumerate(_own(model)) if _map_of(value) is None}
    if is_large(held.values()):
        kept = put(held)
        for key, value in held.items():
            value.data = kept[key]
        trim()
    return model


def parked_copy(model: nn.Module) -> nn.Module:
    """A deep copy whose tensors lie in a file where the model is large, without a second one in memory on the way."""
    own = _own(model)
    if not is_large(own):
        return copy.deepcopy(model)
    kept = put({f"{i}": value for i, value in enumerate(own)})
    memo: dict[int, object] = {id(value): nn.Parameter(kept[f"{i}"], value.requires_grad) if isinstance(value, nn.Parameter)
                               else kept[f"{i}"] for i, value in enumerate(own)}
    twin: nn.Module = copy.deepcopy(model, memo)
    return twin


def lies_in_file(value: Tensor) -> bool:
    """Whether it is parked."""
    return bool(_MAPS) and _map_of(value) is not None


def is_parked(model: nn.Module) -> bool:
    """Whether a tensor of it lies in a file."""
    return any(map(lies_in_file, _own(model)))


def released(model: nn.Module) -> nn.Module:
    """The model, whose parked tensors give their memory back until they are touched again."""
    release(_own(model))
    return model


def release(tensors: Iterable[Tensor]) -> None:
    """Give back the memory of those that are parked."""
    for one in {m for value in tensors if _MAPS and (m := _map_of(value)) is not None}:
        _give_back(one, 0, len(one))


def trim() -> None:
    """Let the C library return what was freed to the system, where it knows how (glibc)."""
    with contextlib.suppress(AttributeError):
        _c("malloc_trim")(0)


def _own(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _map_of(value: Tensor) -> _Map | None:
    if value.device.type != "cpu" or not value.numel() or hasattr(value, "placements"):
        return None
    place = value.data_ptr()
    return next((one for one in _MAPS if one.start <= place < one.stop), None)


def _room(size: int) -> _Map | None:
    """A mapped file of so many bytes that has no name; None, and a warning, where the disk has no room."""
    place = os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)   # a full disk is found here, not when a page is written
            else:
                file.truncate(size)
            made = _Map(file.fileno(), size)
    except OSError as error:
        warnings.warn(f"{place} has no room for {size / 1e9:.2g} GB of weights ({error.strerror}), so they stay in memory. Set "
                      "TMPDIR to a disk with more room.", RuntimeWarning, stacklevel=3)
        return None
    made.start = torch.frombuffer(made, dtype=torch.uint8).data_ptr()
    if not _MAPS:
        _accountable()
    _MAPS.add(made)
    return made


def _give_back(room: _Map, start: int, length: int) -> None:
    """The kernel writes pages to the file as it needs them, and reads them again when they are touched."""
    if hasattr(mmap, "MADV_DONTNEED"):
        room.madvise(mmap.MADV_DONTNEED, start, length)


def _c(name: str) -> Callable[..., int]:
    function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    return function
