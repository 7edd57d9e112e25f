"""Checkpoints of a run: safetensors with JSON metadata and a digest; written whole or not at all.

A run calls `Loop.minimise` one or more times. Each finished call leaves `call-N.safetensors` (the model after it), the
call in progress `current.safetensors` (model, optimiser, averages, step). Resuming replays the run: finished calls are
loaded instead of computed, the interrupted one goes on from its step. Randomness is a function of (seed, step), so the
resumed run ends in the same bits.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lethe.core.files import atomic, space
from lethe.errors import CheckpointCorrupted

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
          torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL", torch.complex64: "C64",
          torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"}   # names of the format


class Checkpoints:
    """The checkpoints in one folder; with `folder=None` nothing is kept.

    identity  of the run (`lethe.core.identity`): what a run of other files has left here is not taken for this one's
    """

    def __init__(self, folder: Path | None, identity: str = "") -> None:
        self.folder, self.identity = folder, identity

    def finished(self, call: int, plan: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The model's tensors after a finished call, or None."""
        return self._of_plan(f"call-{call}", plan)

    def finish(self, call: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self._save(f"call-{call}", tensors, meta)
        if self.folder is not None:
            with space(self.folder):
                (self.folder / "current.safetensors").unlink(missing_ok=True)

    def current(self, call: int, plan: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """State of the call in progress. CheckpointCorrupted when it belongs to a run of another plan."""
        loaded = self._of_plan("current", plan, call)
        return loaded if loaded and loaded[1]["call"] == call else None

    def save(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self._save("current", tensors, meta)

    def recall(self, key: str) -> dict[str, Tensor] | None:
        """Tensors remembered under a key earlier in this run; those of another run are not."""
        loaded = self._load(f"kept-{key}")
        return loaded[0] if loaded and loaded[1].get("identity", "") == self.identity else None

    def remember(self, key: str, tensors: dict[str, Tensor]) -> None:
        self._save(f"kept-{key}", tensors, {})

    def _save(self, name: str, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        if self.folder is None:
            return
        save_tensors(self.folder / f"{name}.safetensors", tensors, {**meta, "identity": self.identity})

    def _of_plan(
        self, name: str, plan: str, call: int | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        loaded = self._load(name)
        if loaded is None:
            return None
        then = loaded[1].get("identity", "")
        if then != self.identity or (loaded[1]["plan"] != plan and call in (None, loaded[1]["call"])):
            what = f"plan {loaded[1]['plan']}, now {plan}" if then == self.identity else f"run {then or '?'}, now {self.identity}"
            raise CheckpointCorrupted(f"{self.folder}/{name}.safetensors belongs to a run with another model, other settings or "
                                      f"data ({what}), so it cannot be continued. Delete the folder's checkpoints to start "
                                      "afresh, or choose another folder.")
        return loaded

    def _load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        if self.folder is None or not (self.folder / f"{name}.safetensors").exists():
            return None
        return load_tensors(self.folder / f"{name}.safetensors")


def save_tensors(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write tensors and metadata atomically as safetensors, with a digest of the contents.

    One tensor after the other: those of a device come to the host alone, where safetensors' own writer needs them there at once.
    """
    header: dict[str, Any] = {"__metadata__": {"lethe": json.dumps(meta), "digest": _digest(tensors)}}
    order, end = sorted(tensors, key=lambda key: (-tensors[key].element_size(), key)), 0   # every tensor lies aligned
    for key in order:
        value, start = tensors[key], end
        end += value.nbytes
        header[key] = {"dtype": DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic(path) as beside:
        _write(beside, itertools.chain([len(text).to_bytes(8, "little"), text], (_bytes(tensors[key]) for key in order)))


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """A file of these parts, each asked for when it is its turn."""
    with path.open("wb") as file:
        file.writelines(parts)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and metadata; CheckpointCorrupted when the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            header = handle.metadata() or {}
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 (not a dict)
        meta = json.loads(header["lethe"])
    except (SafetensorError, RuntimeError, KeyError, ValueError, OSError) as error:
        raise CheckpointCorrupted(f"{path} cannot be read ({error}), so the run cannot go on from it. "
                                  "Delete the file and repeat the command: the run starts afresh.") from error
    if _digest(tensors) != header.get("digest"):
        raise CheckpointCorrupted(f"{path} does not match its digest: some bytes changed on disk. "
                                  "Delete the file and repeat the command: the run starts afresh.")
    return tensors, meta


def _digest(tensors: dict[str, Tensor]) -> str:
    state = hashlib.sha256()
    for key in sorted(tensors):
        state.update(key.encode())
        state.update(_bytes(tensors[key]))
    return state.hexdigest()


def _bytes(value: Tensor) -> memoryview:
    """The numbers of a tensor: where they lie, or a copy on the host that goes with what is returned."""
    one = value.detach().cpu().contiguous().reshape(-1)
    return one.view(torch.uint8).numpy().data if one.numel() else memoryview(b"")
