"""A hash of what a model folder holds: the tensors themselves, whatever order or metadata their files have. No torch."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from lethe.errors import StorageError

CHUNK = 1 << 24
MOST_HEADER = 100_000_000   # bytes; what the safetensors library reads, too


GUARD = "guard"   # beside a model: what answers in its place (core.guard); its files have their own digests


def weights_hash(folder: Path, guard: bool = False) -> str:
    """SHA-256 over file, name, type, shape and bytes of every tensor in the safetensors files below `folder`.

    guard  count the tensors of a guard, too, as certificates of guards did at first
    """
    apart = not guard and (folder / GUARD / f"{GUARD}.json").is_file()
    paths = sorted(path for path in folder.rglob("*.safetensors") if not (apart and folder / GUARD in path.parents))
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
            if size > min(path.stat().st_size, MOST_HEADER):
                raise ValueError("the header is longer than the file, or than 100 MB")
            header = json.loads(handle.read(size), object_pairs_hook=_once)
            header.pop("__metadata__", None)
            _require_seamless(header, path.stat().st_size - 8 - size)
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


def _require_seamless(header: dict[str, Any], size: int) -> None:
    """ValueError unless the tensors lie one after the other and fill the file: no byte stands in two of them, or in none."""
    end = 0
    for begin, after in sorted(about["data_offsets"] for about in header.values()):
        if begin != end or after < begin:
            raise ValueError("its tensors overlap, or leave bytes between them")
        end = after
    if end > size:
        raise ValueError("the file ends inside a tensor")
    if end < size:
        raise ValueError("bytes stand after its last tensor")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice in its header")
    return dict(pairs)


def encoded(value: Any) -> bytes:
    """A text or list with its length before it, so that two neighbours cannot be read as other two."""
    data = json.dumps(value, separators=(",", ":")).encode()
    return struct.pack("<Q", len(data)) + data
