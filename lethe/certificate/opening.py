"""The fingerprint of a record, in layers that can be opened for one record without a word about any other.

    key  = HMAC(s, 1 ‖ id)           of this record, under the secret s of the runs
    mark = SHA-256(2 ‖ key ‖ id)     content = HMAC(s, 3 ‖ content)
    noted  = SHA-256(4 ‖ mark ‖ content)                          what a run notes
    seal   = HMAC(t, 5 ‖ noted)      under the secret t of the issuer, derived from the key that signs
    leaf   = SHA-256(6 ‖ seal ‖ noted)                            what stands in records.txt

Nobody finds a record by its name without s and t. Whoever is given (id, key, content, seal) of one record computes its leaf and
finds it in records.txt; to open a leaf as another record, its issuer would need a collision of SHA-256.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

FORMAT = "lethe-record-1"


def marked(secret: bytes, name: str, content: bytes) -> tuple[bytes, bytes]:
    """(mark of the id, keyed content) of a record: what a run keeps of it."""
    return _mark(_key(secret, name), name), hmac.digest(secret, b"\3" + content, "sha256")


def noted(mark: bytes, content: bytes) -> bytes:
    """The fingerprint under the secret of the runs."""
    return hashlib.sha256(b"\4" + mark + content).digest()


def leaf(secret: bytes, fingerprint: bytes) -> bytes:
    """The leaf in a certificate of a fingerprint that a run noted, under the issuer's secret."""
    return _sealed(_seal(secret, fingerprint), fingerprint)


def mark_of(secret: bytes, name: str) -> bytes:
    """The mark by which records with this id are found in what a run notes."""
    return _mark(_key(secret, name), name)


def opened(runs: bytes, issuer: bytes, name: str, content: bytes) -> dict[str, Any]:
    """What a person needs to find one record: `content` as it was noted."""
    key = _key(runs, name)
    seal = _seal(issuer, noted(_mark(key, name), content))
    return {"format": FORMAT, "id": name, "key": key.hex(), "content": content.hex(), "seal": seal.hex()}


def leaf_of(opening: Mapping[str, Any]) -> bytes:
    """The leaf that an opening leads to. ValueError, KeyError, TypeError where it is none."""
    key, content, seal = (bytes.fromhex(opening[part]) for part in ("key", "content", "seal"))
    if opening["format"] != FORMAT or any(len(part) != 32 for part in (key, content, seal)):
        raise ValueError("it is not of a format that this version reads")
    return _sealed(seal, noted(_mark(key, opening["id"]), content))


def _key(secret: bytes, name: str) -> bytes:
    return hmac.digest(secret, b"\1" + _bytes(name), "sha256")


def _mark(key: bytes, name: str) -> bytes:
    return hashlib.sha256(b"\2" + key + _bytes(name)).digest()


def _seal(secret: bytes, fingerprint: bytes) -> bytes:
    return hmac.digest(secret, b"\5" + fingerprint, "sha256")


def _sealed(seal: bytes, fingerprint: bytes) -> bytes:
    return hashlib.sha256(b"\6" + seal + fingerprint).digest()


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "backslashreplace")
