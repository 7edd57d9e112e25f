"""The controller's key: one Ed25519 private key in a PEM file that only its owner can read.

It yields two things: signatures, and (by HKDF-SHA256, one way) the secret of the record fingerprints. So an auditor can
receive the secret, to look up one record, without being able to sign; and certificates under one key commit to one data
set by the same roots.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.certificate.reading import whole
from lethe.core.files import atomic, sweep
from lethe.errors import RequestError, StorageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PURPOSE = b"lethe record fingerprints 1"
FIELD = 2**255 - 19   # of Ed25519
EIGHTH = 0x05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826   # y of a point of order 8
SMALL = (0, 1, FIELD - 1, EIGHTH, FIELD - EIGHTH)   # y of the points whose order divides 8
MOST = 1 << 16       # bytes of a key file


def private_key(path: Path) -> tuple[Ed25519PrivateKey, bool]:
    """The key in `path`, and whether it was made now (mode 0600)."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    sweep(path.parent)   # a process that was killed while it wrote a key leaves a secret behind
    if not path.exists():
        made = Ed25519PrivateKey.generate()
        pem = made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        with atomic(path, private=True) as beside:
            beside.write_bytes(pem)
        return made, True
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise RequestError(f"{path} can be read by others than its owner, so anyone of them could sign; nothing was signed. "
                           f"chmod 600 {path}, or make a new key if it was copied.")
    try:
        found = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise RequestError(f"{path} is not an unencrypted private key in PEM form ({type(error).__name__}); nothing was signed. "
                           "Choose a path that does not exist yet to make one.") from None
    if not isinstance(found, Ed25519PrivateKey):
        raise RequestError(f"{path} holds a {type(found).__name__}, and certificates are signed with Ed25519; nothing was "
                           "signed. Choose a path that does not exist yet to make one.")
    return found, False


def weak(raw: bytes) -> bool:
    """Whether a public key is of small order, so that anybody can make signatures for it, or is spelled in a second way.

    The point is its y coordinate, little-endian, with the sign of x in the highest bit (RFC 8032, 5.1.2).
    """
    y = int.from_bytes(raw, "little") & ((1 << 255) - 1)
    return y >= FIELD or y in SMALL


def public_key(path: Path) -> Ed25519PublicKey:
    """The public key in a PEM file."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        found = serialization.load_pem_public_key(whole(path, MOST))
    except (ValueError, TypeError, OSError, StorageError):
        raise RequestError(f"{path} is not a public key in PEM form, so nothing was checked. Provide the issuer's public "
                           "key.") from None
    if not isinstance(found, Ed25519PublicKey):
        raise RequestError(f"{path} holds a {type(found).__name__}, and certificates are signed with Ed25519; nothing was "
                           "checked. Provide the issuer's public key.")
    if weak(raw(found)):
        raise RequestError(f"the key in {path} is of small order: anybody can sign with it, so nothing was checked. Ask the "
                           "issuer for the real one.")
    return found


def public_pem(key: Ed25519PublicKey) -> bytes:
    """The public key as PEM."""
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def raw(key: Ed25519PublicKey) -> bytes:
    """The 32 bytes of a public key."""
    return key.public_bytes_raw()


def record_secret(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes under which records are fingerprinted."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), 32, None, PURPOSE).derive(key.private_bytes_raw())
