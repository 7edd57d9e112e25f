"""Check a certificate offline: every part by itself, so that the faulty part is named.

The signature covers certificate.json, which holds the hash of every other file. Beyond that the parts are compared with
each other: records against roots, proofs against roots, log against its chain, configuration and claims against the evidence.
A part that was not checked, and why, is a line of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lethe.certificate import keys, log, page, records
from lethe.certificate.bundle import FORMAT
from lethe.certificate.canonical import decode, encode, sha256
from lethe.certificate.claims import ladder
from lethe.certificate.gather import procedure_hash
from lethe.errors import LetheError, RequestError, StorageError

OK, FAILED, UNCHECKED = "ok", "failed", "not checked"
OWN = ("certificate.json", "signature.json")


@dataclass(frozen=True)
class Check:
    """One part: ok, failed or not checked, and the observation."""

    part: str
    state: str
    text: str


def check(folder: Path, trusted: Path | None = None, model: Path | None = None, ledger: Path | None = None) -> list[Check]:
    """All checks of a bundle. RequestError when there is no certificate at all.

    trusted  the issuer's public key (PEM), sent by the issuer        model   the folder of the unlearned model, or a file of it
    ledger   the issuer's ledger, which must still hold the certificate's entry
    """
    if not (folder / "certificate.json").is_file():
        raise RequestError(f"{folder} holds no certificate.json, so there is nothing to check. "
                           "Provide the folder of a certificate.")
    for given in (trusted, model, ledger):
        if given is not None and not given.exists():
            raise RequestError(f"{given} does not exist, so nothing was checked. Correct the path, or leave it out.")
    signed = (folder / "certificate.json").read_bytes()
    found = [_guarded("signature", lambda: _signature(folder, signed, trusted))]
    try:
        certificate = decode(signed, "certificate.json")
        if certificate["format"] != FORMAT:
            raise StorageError(f"certificate.json has format {certificate['format']!r}; this version reads {FORMAT}. Update it.")
    except (StorageError, KeyError, TypeError) as error:
        return [*found, Check("certificate.json", FAILED, str(error))]
    found.append(Check("certificate.json", OK, f"canonical, issued {certificate['issued']}"))
    parts: dict[str, Callable[[], Check]] = {
        "files": lambda: _files(folder, certificate), "records.txt": lambda: _records(folder, certificate),
        "proofs.json": lambda: _proofs(folder, certificate), "log.json": lambda: _log(folder, certificate),
        "request.json": lambda: _configuration(folder), "claims": lambda: _claims(folder, certificate),
        "certificate.html": lambda: _page(folder, certificate), "model": lambda: _model(folder, model),
        "ledger": lambda: _ledger(ledger, certificate, signed),
    }
    return [*found, *[_guarded(name, one) for name, one in parts.items()]]


def _guarded(part: str, one: Callable[[], Check]) -> Check:
    """The check, or its failure in words: a damaged file may have any shape."""
    try:
        return one()
    except FileNotFoundError as error:
        return Check(part, FAILED, f"{Path(error.filename).name} is missing")
    except (LetheError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        text = str(error) if isinstance(error, LetheError) else f"it cannot be read ({type(error).__name__}: {error})"
        return Check(part, FAILED, text)


def _signature(folder: Path, signed: bytes, trusted: Path | None) -> Check:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    signature = decode((folder / "signature.json").read_bytes(), "signature.json")
    given = bytes.fromhex(signature["public_key"])
    if trusted is not None and keys.raw(keys.public_key(trusted)) != given:
        return Check("signature", FAILED, f"wrong key: it is signed with {given.hex()[:16]}…, not with the key in {trusted}")
    try:
        Ed25519PublicKey.from_public_bytes(given).verify(bytes.fromhex(signature["signature"]), signed)
    except InvalidSignature:
        return Check("signature", FAILED, "certificate.json is not what was signed: it was changed, or the signature is another")
    if decode(signed, "certificate.json")["issuer"] != signature["public_key"]:
        return Check("signature", FAILED, "the certificate names another issuer than the key it is signed with")
    if trusted is None:
        return Check("signature", OK, f"made with key {signature['public_key']}; whose it is was not checked (pass --public-key)")
    return Check("signature", OK, f"made with the key in {trusted}")


def _files(folder: Path, certificate: Mapping[str, Any]) -> Check:
    wrong = []
    listed = {item["path"]: item for item in certificate["files"]}
    for name, item in listed.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != item["bytes"]:
            wrong.append(f"{name} has {path.stat().st_size} bytes, {item['bytes']} were signed: it was cut short or edited")
        elif sha256(path.read_bytes()) != item["sha256"]:
            wrong.append(f"{name} was changed after it was signed")
    wrong += [f"{path.name} does not belong to the certificate" for path in sorted(folder.iterdir())
              if path.name not in listed and path.name not in OWN]
    return _check("files", wrong, f"{len(listed)} files are as they were signed")


def _records(folder: Path, certificate: Mapping[str, Any]) -> Check:
    forget, retain = records.parsed((folder / "records.txt").read_text(encoding="utf-8"))
    wrong, signed = [], certificate["data"]
    for name, made in records.commitments(forget, retain).items():
        if made["count"] != signed[name]["count"]:
            wrong.append(f"{made['count']} {name} records, {signed[name]['count']} were signed")
        elif made["root"] != signed[name]["root"]:
            wrong.append(f"the {name} records are not those of the signed root")
    return _check("records.txt", wrong, f"training minus {len(forget)} forgotten records is the retained set of {len(retain)}")


def _proofs(folder: Path, certificate: Mapping[str, Any]) -> Check:
    proofs = _json(folder, "proofs.json")
    wrong = records.proof_faults(proofs, certificate["data"])
    wanted = min(records.PROVED, certificate["data"]["forgotten"]["count"])
    if len(proofs) != wanted:
        wrong.append(f"{len(proofs)} proofs, {wanted} were made")
    return _check("proofs.json", wrong, f"{len(proofs)} forgotten records: in the training records, not in the retained ones")


def _log(folder: Path, certificate: Mapping[str, Any]) -> Check:
    events = _json(folder, "log.json")
    wrong = log.faults(events)
    if not wrong and (not events or events[-1]["hash"] != certificate["chain"]["log"]):
        wrong.append("the last event is not the signed one: events were removed or added")
    return _check("log.json", wrong, f"{len(events)} events in an unbroken chain")


def _configuration(folder: Path) -> Check:
    config, evidence = _json(folder, "request.json"), _json(folder, "evidence.json")
    wrong = []
    if procedure_hash(config["method"]) != evidence["procedure"]["sha256"]:
        wrong.append(f"the configuration of {evidence['procedure']['name']} is not the one that the evidence names")
    return _check("request.json", wrong, "the configuration has the hash that stands in C1")


def _claims(folder: Path, certificate: Mapping[str, Any]) -> Check:
    evidence = _json(folder, "evidence.json")
    wrong = []
    for computed, claim in zip(ladder(evidence), certificate["claims"], strict=True):
        place = difference(claim, computed)
        if place:
            wrong.append(f"{claim['level']} does not follow from the evidence: {place}")
    for part in ("run", "data", "inventory"):
        place = difference(certificate[part], evidence[part])
        if place:
            wrong.append(f"{part} does not agree with the evidence: {place}")
    claimed = ", ".join(claim["level"] for claim in certificate["claims"] if claim["claimed"])
    return _check("claims", wrong, f"they follow from the evidence: {claimed}")


def _page(folder: Path, certificate: Mapping[str, Any]) -> Check:
    item = next(one for one in certificate["files"] if one["path"] == "certificate.html")
    shown = (folder / "certificate.html").read_bytes()
    if sha256(shown) != item["sha256"]:
        return Check("certificate.html", FAILED, "the page was edited after it was signed; believe certificate.json only")
    if page.render(certificate, _json(folder, "evidence.json")).encode() != shown:
        return Check("certificate.html", FAILED, "the page does not show what certificate.json says, or another version made it")
    return Check("certificate.html", OK, "the page shows what certificate.json says")


def _model(folder: Path, model: Path | None) -> Check:
    """The weights by their tensors, whatever order their file has; every other file that was delivered by its digest."""
    from lethe.certificate.weights import weights_hash
    from lethe.core.files import file_hash
    from lethe.ledger.rows import digests

    if model is None:
        return Check("model", UNCHECKED, "no model was given (--model FOLDER)")
    signed = {item["path"]: item["sha256"] for item in _json(folder, "evidence.json")["models"]["files"]}
    if model.is_file():
        same = [path for path, sha in signed.items() if sha == file_hash(model)]
        return Check("model", OK, f"{model} is the certified {same[0]}") if same else Check(
            "model", FAILED, f"{model} is none of the {len(signed)} certified files; it was changed, or is of another model")
    after = _json(folder, "certificate.json")["models"]["after"]
    present = weights_hash(model)
    if present != after:
        return Check("model", FAILED, f"another model: the weights in {model} have hash {present[:16]}…, certified are "
                                      f"{after[:16]}…")
    there = {item["path"]: item["sha256"] for item in digests(model) if not item["path"].endswith(".safetensors")}
    wrong = [f"{path} was changed after it was certified" if path in signed else f"{path} was not certified"
             for path, sha in there.items() if signed.get(path) != sha]
    others = f", and so are its {len(there)} other files" if there else ""
    return _check("model", wrong, f"the weights in {model} are those of the certificate{others}")


def _ledger(ledger: Path | None, certificate: Mapping[str, Any], signed: bytes) -> Check:
    from lethe.ledger import Ledger

    if ledger is None:
        return Check("ledger", UNCHECKED, "no ledger was given (--ledger FILE); the log was checked by itself")
    book = Ledger(ledger)
    broken = book.verify(certificate["chain"]["ledger_head"])
    if broken is not None:
        return Check("ledger", FAILED, broken.reason)
    name = f"certificate-{sha256(signed)[:16]}"
    if not book.history(name):
        return Check("ledger", FAILED, f"the ledger does not note this certificate ({name})")
    return Check("ledger", OK, "the ledger holds the signed head and notes this certificate")


def difference(signed: Any, computed: Any, place: str = "") -> str:
    """The first place at which two data differ, with both values; '' when they are equal."""
    if isinstance(signed, Mapping) and isinstance(computed, Mapping):
        keys = sorted(signed.keys() | computed.keys())
        inner = [difference(signed.get(k), computed.get(k), f"{place}.{k}".lstrip(".")) for k in keys]
        return next((one for one in inner if one), "")
    if isinstance(signed, list) and isinstance(computed, list) and len(signed) == len(computed):
        inner = [difference(a, b, f"{place}[{_named(a, i)}]") for i, (a, b) in enumerate(zip(signed, computed, strict=True))]
        return next((one for one in inner if one), "")
    return "" if signed == computed else f"{place} is signed as {_short(signed)}, the evidence gives {_short(computed)}"


def _named(item: Any, place: int) -> str:
    return str(item.get("metric", place)) if isinstance(item, Mapping) else str(place)


def _short(value: Any) -> str:
    text = encode(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}…"


def _json(folder: Path, name: str) -> Any:
    return decode((folder / name).read_bytes(), name)


def _check(part: str, wrong: list[str], fine: str) -> Check:
    return Check(part, FAILED, "; ".join(wrong[:4])) if wrong else Check(part, OK, fine)
