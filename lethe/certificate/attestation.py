"""The same record in the forms that other tools read: OpenSSF model signing, and an in-toto attestation.

    model.sig          over every file of the delivered model: a Sigstore bundle (v0.3) around a DSSE envelope, for OpenSSF's
                       client (1.1): model_signing verify key MODEL --signature model.sig --public_key model-signing.pem
    attestation.json   a DSSE envelope around an in-toto statement (v1): the model's files, and as predicate what is claimed

DSSE signs PAE(type, payload) = "DSSEv1" len(type) type len(payload) payload. That client knows no Ed25519, so model.sig is signed
with a P-256 key which follows from the issuer's (HKDF); the certificate lists its public half. attestation.json is signed with
the issuer's own key, after the certificate.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lethe.certificate.canonical import decode, encode

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PURPOSE = b"lethe model signing 1"
ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551   # of P-256
PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
MODEL = "https://model_signing/signature/v1.0"
RECORD = "urn:lethe-unlearning:removal-record:2"
CLAIMED = ("level", "claimed", "statement", "why_not", "assumptions", "does_not_say")   # what the attestation says of a claim
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def model_key(key: Ed25519PrivateKey) -> EllipticCurvePrivateKey:
    """The P-256 key that signs models for the holder of an Ed25519 key."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    drawn = int.from_bytes(HKDF(SHA256(), 48, None, PURPOSE).derive(key.private_bytes_raw()), "big")
    return ec.derive_private_key(drawn % (ORDER - 1) + 1, ec.SECP256R1())   # 48 bytes: no value is likelier (FIPS 186-5, A.2.1)


def model_statement(files: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The statement of OpenSSF model signing on the files of a model: {path, sha256, …} each."""
    ordered = sorted(files, key=lambda item: str(item["path"]))
    whole = hashlib.sha256(b"".join(bytes.fromhex(item["sha256"]) for item in ordered)).hexdigest()
    return {"_type": STATEMENT, "subject": [{"name": "model", "digest": {"sha256": whole}}], "predicateType": MODEL,
            "predicate": {
                "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []},
                "resources": [{"name": item["path"], "algorithm": "sha256", "digest": item["sha256"]} for item in ordered]}}


def record_statement(certificate: Mapping[str, Any], signed: str, files: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The statement on a certificate with SHA-256 `signed`: the files of its model, and what is claimed."""
    return {"_type": STATEMENT, "subject": [{"name": item["path"], "digest": {"sha256": item["sha256"]}} for item in files],
            "predicateType": RECORD, "predicate": {
                "title": certificate["title"], "certificate": {"name": "certificate.json", "digest": {"sha256": signed}},
                "claims": [{key: claim[key] for key in CLAIMED}
                           for claim in certificate["claims"]]}}


def model_signature(key: EllipticCurvePrivateKey, files: list[Mapping[str, Any]]) -> dict[str, Any]:
    """model.sig."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    payload = encode(model_statement(files))
    hint = hashlib.sha256(pem(key.public_key())).hexdigest()
    return {"mediaType": BUNDLE, "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
            "dsseEnvelope": _envelope(payload, key.sign(pae(payload), ec.ECDSA(SHA256())), "")}


def attestation(key: Ed25519PrivateKey, statement: Mapping[str, Any]) -> dict[str, Any]:
    """attestation.json."""
    payload = encode(statement)
    return _envelope(payload, key.sign(pae(payload)), hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest())


def model_fault(bundle: Mapping[str, Any], public: bytes, files: list[Mapping[str, Any]]) -> str:
    """What is wrong with a model.sig, for the public key (PEM) and the certified files; '' when it holds."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key, payload = load_pem_public_key(public), base64.b64decode(bundle["dsseEnvelope"]["payload"], validate=True)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return "model-signing.pem is no public key of P-256"
    try:
        signature = base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"], validate=True)
        key.verify(signature, pae(payload), ec.ECDSA(SHA256()))
    except InvalidSignature:
        return "model.sig is not signed with the key in model-signing.pem"
    return "" if decode(payload, "model.sig") == model_statement(files) else "model.sig is about other files than the certificate"


def record_fault(envelope: Mapping[str, Any], issuer: bytes, statement: Mapping[str, Any]) -> str:
    """What is wrong with an attestation.json, for the raw key of the issuer and the statement that follows; '' when it holds."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    payload = base64.b64decode(envelope["payload"], validate=True)
    try:
        Ed25519PublicKey.from_public_bytes(issuer).verify(
            base64.b64decode(envelope["signatures"][0]["sig"], validate=True), pae(payload))
    except InvalidSignature:
        return "attestation.json is not signed with the key of the certificate"
    return "" if payload == encode(statement) else "attestation.json does not say what the certificate says"


def pae(payload: bytes) -> bytes:
    """What DSSE signs."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def pem(public: Any) -> bytes:
    """A public key as PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _envelope(payload: bytes, signature: bytes, keyid: str) -> dict[str, Any]:
    return {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": keyid}]}
