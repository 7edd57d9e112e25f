"""Commitments to sets of records: keyed leaves, a Merkle root over them in ascending order, proofs of being in or not in.

    leaf(id, content)  HMAC-SHA256(secret, 0 ‖ |id| ‖ id ‖ content)       nothing about the record without the secret
    root               SHA-256(2 ‖ n ‖ top); node SHA-256(1 ‖ left ‖ right), base SHA-256(0 ‖ leaf), an odd one moves up

In: the path from the leaf to the root. Not in: the leaf would stand between two neighbours that are both in, side by side
(or before the first, after the last). Since the order is ascending and n is bound by the root, nothing stands between.
"""

from __future__ import annotations

import hashlib
import hmac
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any


def leaf(secret: bytes, name: str, content: bytes) -> bytes:
    """The keyed fingerprint of a record: its identifier and a digest of its content."""
    encoded = name.encode("utf-8", "backslashreplace")
    return hmac.digest(secret, b"\0" + len(encoded).to_bytes(8, "big") + encoded + content, "sha256")


def root(leaves: Sequence[bytes]) -> str:
    """The root over leaves in ascending order, in hexadecimal."""
    row = [_base(one) for one in leaves]
    while len(row) > 1:
        row = _above(row)
    return _sealed(row[0] if row else b"", len(leaves))


def path(leaves: Sequence[bytes], index: int) -> dict[str, Any]:
    """The proof that the leaf at `index` is in."""
    row, beside, place = [_base(one) for one in leaves], [], index
    while len(row) > 1:
        other = place ^ 1
        if other < len(row):
            beside.append(row[other].hex())
        row, place = _above(row), place // 2
    return {"leaf": leaves[index].hex(), "index": index, "path": beside}


def holds(proof: dict[str, Any], count: int, expected: str) -> bool:
    """Whether the proof leads from its leaf, at its place among `count`, to the root."""
    place, width, beside = proof["index"], count, [bytes.fromhex(one) for one in proof["path"]]
    if not 0 <= place < count:
        return False
    node = _base(bytes.fromhex(proof["leaf"]))
    while width > 1:
        if place ^ 1 < width:
            if not beside:
                return False
            other = beside.pop(0)
            node = _node(other, node) if place % 2 else _node(node, other)
        place, width = place // 2, (width + 1) // 2
    return not beside and _sealed(node, count) == expected


def absence(leaves: Sequence[bytes], one: bytes) -> dict[str, Any]:
    """The proof that `one` is not in: its neighbours."""
    place = bisect_left(leaves, one)
    if place < len(leaves) and leaves[place] == one:
        raise ValueError("the leaf is in, so there is no proof that it is not")
    return {"leaf": one.hex(), "before": path(leaves, place - 1) if place else None,
            "after": path(leaves, place) if place < len(leaves) else None}


def absent(proof: dict[str, Any], count: int, expected: str) -> bool:
    """Whether the proof of absence holds for the set of `count` leaves with this root."""
    before, after = proof["before"], proof["after"]
    if not all(holds(side, count, expected) for side in (before, after) if side):
        return False
    start = before["index"] + 1 if before else 0
    end = after["index"] if after else count
    ordered = (not before or before["leaf"] < proof["leaf"]) and (not after or proof["leaf"] < after["leaf"])
    return start == end and ordered


def _base(one: bytes) -> bytes:
    return hashlib.sha256(b"\0" + one).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _sealed(top: bytes, count: int) -> str:
    return hashlib.sha256(b"\2" + count.to_bytes(8, "big") + top).hexdigest()


def _above(row: list[bytes]) -> list[bytes]:
    paired = [_node(row[i], row[i + 1]) for i in range(0, len(row) - 1, 2)]
    return [*paired, row[-1]] if len(row) % 2 else paired
