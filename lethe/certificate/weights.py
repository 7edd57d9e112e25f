"""A hash of what a model folder holds: the tensors themselves, whatever order or metadata their files have. No torch."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from lethe.errors import StorageError

CHUNK = 1 << 24


def weights_hash(folder: Path) -> str:
    """SHA-256 over file, name, type, shape and bytes of every tensor in the safetensors files below `folder`."""
    paths = sorted(folder.rglob("*.safetensors"))
    if not paths:
        raise StorageError(f"{folder} holds no safetensors file, so there are no weights to name. Provide the folder of the "
                           "saved model; `lethe run` writes it, `lethe compare` with --export.")
    state = hashlib.sha256()
    for path in paths:
        state.update(encoded(path.relative_to(folder).as_posix()))
        _add(state, path)
    return state.hexdigest()


def _add(state: Any, path: Path) -> None:
    with open(path, "rb") as handle:
        try:
            size = struct.unpack("<Q", handle.read(8))[0]
            if size > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(handle.read(size))
            header.pop("__metadata__", None)
            for name, about in sorted(header.items()):
                begin, end = about["data_offsets"]
                state.update(encoded([name, about["dtype"], about["shape"]]))
                handle.seek(8 + size + begin)
                left = end - begin
                while left:
                    part = handle.read(min(CHUNK, left))
                    if not part:
                        raise ValueError("the file ends inside a tensor")
                    state.update(part)
                    left -= len(part)
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise StorageError(f"{path} is no sound safetensors file ({error}), so its weights have no hash. It was cut short or "
                               "edited; get it again.") from None


def encoded(value: Any) -> bytes:
    """A text or list with its length before it, so that two neighbours cannot be read as other two."""
    data = json.dumps(value, separators=(",", ":")).encode()
    return struct.pack("<Q", len(data)) + data
