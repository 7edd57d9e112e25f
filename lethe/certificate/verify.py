"""Check a certificate offline: every part by itself, so that the faulty part is named.

The signature covers certificate.json, which holds the hash of every other file. Beyond that the parts are compared with
each other: records against roots, proofs against roots, log against its chain, configuration and claims against the evidence.
Numbers and booleans of the claims are computed again; sentences are compared with the wording that the certificate names, which
is kept for ever. A part that was not checked, and why, is a line of its own. Whatever a bundle holds, a line says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lethe.certificate import attestation, keys, log, opening, page, records, shape
from lethe.certificate.canonical import decode, encode, sha256
from lethe.certificate.claims import headline, ladder, review
from lethe.certificate.gather import REPEAT, lineage, procedure_hash
from lethe.certificate.inventory import possible
from lethe.certificate.reading import RECORDS, document, whole
from lethe.certificate.theorem import contradictions
from lethe.certificate.wording import UNNAMED, texts
from lethe.errors import LetheError, RequestError, StorageError

OK, FAILED, UNCHECKED = "ok", "failed", "not checked"
ABSENT = object()
WEIGHTS = ".safetensors"
SAID = ("name", "does_not_say", "assumptions", "why_not", "statement")   # of a claim, in words


@dataclass(frozen=True)
class Check:
    """One part: ok, failed or not checked, and the observation."""

    part: str
    state: str
    text: str


def check(folder: Path, trusted: Path | None = None, model: Path | None = None, ledger: Path | None = None,
          record: str | None = None, proof: Path | None = None) -> list[Check]:
    """All checks of a bundle. RequestError when there is no certificate at all.

    trusted  the issuer's public key (PEM), sent by the issuer        model   the folder of the unlearned model, or a file of it
    ledger   the issuer's ledger, which must still hold the certificate's entry
    record   the id of a record that must be among the forgotten ones, with the proof that the issuer made of it (`opening`)
    """
    if not (folder / "certificate.json").exists():
        beside = folder.parent / "certificates" / folder.name   # where `lethe certify` puts that of a run
        raise RequestError(f"{folder} holds no certificate.json, so there is nothing to check. " + (
            f"The certificate of this run is {beside}." if beside.is_dir() else "Provide the folder of a certificate."))
    for given in (trusted, model, ledger, proof):
        if given is not None and not given.exists():
            raise RequestError(f"{given} does not exist, so nothing was checked. Correct the path, or leave it out.")
    if (record is None) != (proof is None):
        raise RequestError("a record is looked up by its id and the proof that the issuer made of it, so nothing was checked. "
                           "Pass --record ID --proof FILE; the issuer writes it with: lethe certify RUN --key KEY --record ID")
    found = [_guarded("signature", lambda: _signature(folder)), _guarded("issuer", lambda: _issuer(folder, trusted))]
    opened = _guarded("certificate.json", lambda: _opened(folder))
    if opened.state == FAILED:
        return [*found, opened]
    certificate = document(folder, "certificate.json")
    parts: dict[str, Callable[[], Check]] = {
        "dates": lambda: _dates(folder, certificate),
        "files": lambda: _files(folder, certificate), "documents": lambda: _documents(folder, certificate),
        "records.txt": lambda: _records(folder, certificate), "proofs.json": lambda: _proofs(folder, certificate),
        "log.json": lambda: _log(folder, certificate), "request.json": lambda: _configuration(folder),
        "claims": lambda: _claims(folder, certificate), "wording": lambda: _wording(folder, certificate),
        "certificate.html": lambda: _page(folder, certificate), "model": lambda: _model(folder, model),
        "ledger": lambda: _ledger(ledger, certificate, whole(folder / "certificate.json")),
    }
    if certificate["format"] != "lethe-certificate-1":
        parts |= {"model.sig": lambda: _model_signature(folder), "attestation.json": lambda: _attestation(folder, certificate)}
    if record is not None and proof is not None:
        parts["record"] = lambda: _record(folder, record, proof)
    return [*found, opened, *[_guarded(name, one) for name, one in parts.items()]]


def title(folder: Path) -> str:
    """What a certificate that holds claims, in one line; of an old one, which has none, in today's words."""
    certificate = document(folder, "certificate.json")
    return certificate.get("title") or headline(certificate["claims"], texts()) or ""


def _guarded(part: str, one: Callable[[], Check]) -> Check:
    """The check, or its failure in words."""
    try:
        return one()
    except FileNotFoundError as error:
        return Check(part, FAILED, f"{Path(error.filename).name} is missing")
    except LetheError as error:
        return Check(part, FAILED, str(error))
    except Exception as error:   # a forged file may have any shape, and libraries raise what they like about it
        return Check(part, FAILED, f"it cannot be read ({type(error).__name__}: {str(error)[:200]})")


def _opened(folder: Path) -> Check:
    certificate = document(folder, "certificate.json")
    if not isinstance(certificate, dict) or certificate.get("format") not in shape.CERTIFICATE:
        named = certificate.get("format") if isinstance(certificate, dict) else None
        raise StorageError(f"certificate.json has format {str(named)[:60]!r}; this version reads {', '.join(shape.CERTIFICATE)}. "
                           "Update it.")
    wrong = shape.faults(certificate, shape.CERTIFICATE[certificate["format"]], "certificate.json")
    return _check("certificate.json", wrong, f"canonical, issued {certificate['issued']}" if not wrong else "")


def _signature(folder: Path) -> Check:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    signed, signature = whole(folder / "certificate.json"), document(folder, "signature.json")
    wrong = shape.faults(signature, shape.SIGNATURE, "signature.json")
    if wrong:
        return _check("signature", wrong, "")
    given = bytes.fromhex(signature["public_key"])
    if keys.weak(given):
        return Check("signature", FAILED, f"the key {given.hex()[:16]}… is of small order: anybody can sign with it")
    try:
        Ed25519PublicKey.from_public_bytes(given).verify(bytes.fromhex(signature["signature"]), signed)
    except InvalidSignature:
        return Check("signature", FAILED, "certificate.json is not what was signed: it was changed, or the signature is another")
    if decode(signed, "certificate.json")["issuer"] != signature["public_key"]:
        return Check("signature", FAILED, "the certificate names another issuer than the key it is signed with")
    if keys.raw(keys.public_key(folder / "public.pem")) != given:
        return Check("signature", FAILED, "public.pem is another key than the one that signed")
    return Check("signature", OK, f"made with key {signature['public_key']}")


def _issuer(folder: Path, trusted: Path | None) -> Check:
    """Whose key it is: known only by a key that came another way than the bundle."""
    if trusted is None:
        return Check("issuer", UNCHECKED, "whose key that is was not checked: anybody could have made it (pass --public-key)")
    given = document(folder, "signature.json")["public_key"]
    if keys.raw(keys.public_key(trusted)).hex() != given:
        return Check("issuer", FAILED, f"wrong key: it is signed with {given[:16]}…, not with the key in {trusted}")
    if folder.resolve() in trusted.resolve().parents:
        return Check("issuer", UNCHECKED, f"{trusted} lies in the certificate itself, so it shows nothing about who made it; "
                                          "pass the key that the issuer sent you")
    return Check("issuer", OK, f"the key is the one in {trusted}")


def _dates(folder: Path, certificate: Mapping[str, Any]) -> Check:
    return _check("dates", shape.dates(certificate, document(folder, "log.json")), "possible and in order, by the issuer's clock")


def _files(folder: Path, certificate: Mapping[str, Any]) -> Check:
    listed = {item["path"]: item for item in certificate["files"]}
    names, own = shape.NAMES[certificate["format"]], shape.OWN[certificate["format"]]
    wrong = [f"{name[:60]!r} is no file of a certificate" for name in sorted(listed.keys() - names)]
    wrong += [f"{name} is not signed" for name in sorted(names - listed.keys())]
    if len(listed) != len(certificate["files"]):
        wrong.append("a file is listed twice")
    for name in sorted(names & listed.keys()):
        path, item = folder / name, listed[name]
        if not path.exists():
            wrong.append(f"{name} is missing")
        elif path.is_file() and path.stat().st_size != item["bytes"]:
            wrong.append(f"{name} has {path.stat().st_size} bytes, {item['bytes']} were signed: it was cut short or edited")
        elif sha256(whole(path, RECORDS)) != item["sha256"]:
            wrong.append(f"{name} was changed after it was signed")
    wrong += [f"{path.name} does not belong to the certificate" for path in sorted(folder.iterdir())
              if path.name not in listed and path.name not in own]
    return _check("files", wrong, f"{len(listed)} files are as they were signed")


def _documents(folder: Path, certificate: Mapping[str, Any]) -> Check:
    specs = {"evidence.json": shape.EVIDENCES[certificate["format"]], **shape.DOCUMENTS}
    wrong = [fault for name, spec in specs.items() for fault in shape.faults(document(folder, name), spec, name)]
    return _check("documents", wrong, "they hold what the format has, and nothing else")


def _records(folder: Path, certificate: Mapping[str, Any]) -> Check:
    forget, retain = records.parsed(whole(folder / "records.txt", RECORDS).decode())
    wrong, signed = [], certificate["data"]
    for name, made in records.commitments(forget, retain).items():
        if made["count"] != signed[name]["count"]:
            wrong.append(f"{made['count']} {name} records, {signed[name]['count']} were signed")
        elif made["root"] != signed[name]["root"]:
            wrong.append(f"the {name} records are not those of the signed root")
    return _check("records.txt", wrong, f"all without the {len(forget)} forgotten records are the retained set of {len(retain)}")


def _record(folder: Path, name: str, proof: Path) -> Check:
    """One record, by what opens its leaves: everyone who is shown a certificate can look for a record of their own."""
    openings = decode(whole(proof), proof.name)
    if not openings or any(one["id"] != name for one in openings):
        return Check("record", FAILED, f"{proof} is about another record than {name!r}")
    forget, retain = map(set, records.parsed(whole(folder / "records.txt", RECORDS).decode()))
    leaves = [opening.leaf_of(one) for one in openings]
    kept, gone = sum(one in retain for one in leaves), sum(one in forget for one in leaves)
    if kept + gone < len(leaves):
        return Check("record", FAILED, f"{proof} leads to no record of this certificate: it was made for another one, or edited")
    if kept:
        return Check("record", FAILED, f"{name!r} is among the retained records ({kept} of {len(leaves)}): it was not removed")
    return Check("record", OK, f"{name!r} is among the forgotten records ({gone}), and not among the retained ones")


def _proofs(folder: Path, certificate: Mapping[str, Any]) -> Check:
    proofs = document(folder, "proofs.json")
    wrong = records.proof_faults(proofs, certificate["data"])
    wanted = min(records.PROVED, certificate["data"]["forgotten"]["count"])
    if len(proofs) != wanted:
        wrong.append(f"{len(proofs)} proofs, {wanted} were made")
    return _check("proofs.json", wrong, f"{len(proofs)} forgotten records: among all of them, not among the retained ones")


def _log(folder: Path, certificate: Mapping[str, Any]) -> Check:
    events = document(folder, "log.json")
    wrong = log.faults(events)
    if not wrong and (not events or events[-1]["hash"] != certificate["chain"]["log"]):
        wrong.append("the last event is not the signed one: events were removed or added")
    return _check("log.json", wrong, f"{len(events)} events in an unbroken chain")


def _configuration(folder: Path) -> Check:
    config, evidence = document(folder, "request.json"), document(folder, "evidence.json")
    wrong = []
    if procedure_hash(config["method"]) != evidence["procedure"]["sha256"]:
        wrong.append(f"the configuration of {evidence['procedure']['name']} is not the one that the evidence names")
    wrong += contradictions(evidence["guarantee"], evidence["procedure"], config["method"])
    return _check("request.json", wrong, "the configuration has the hash that stands in C1")


def _claims(folder: Path, certificate: Mapping[str, Any]) -> Check:
    """Numbers, booleans and hashes of every claim, computed again; what stands twice, against its other place."""
    evidence = document(folder, "evidence.json")
    wrong = []
    for computed, claim in zip(ladder(evidence, texts(_spoken(certificate, evidence))), certificate["claims"], strict=True):
        place = difference(_numbers(claim), _numbers(computed))
        if place:
            wrong.append(f"{claim['level']} does not follow from the evidence: {place}")
    after = certificate["claims"][1]["evidence"].get("after")
    if certificate["models"]["after"] != after:
        wrong.append(f"the model is {certificate['models']['after'][:16]}…, and C1 is about {str(after)[:16]}…")
    here = {key: evidence["models"][key] for key in ("before", "after")}
    stand = (("run", evidence["run"]), ("data", evidence["data"]), ("inventory", evidence["inventory"]), ("models", here))
    for part, of in stand:
        place = difference(certificate[part], of)
        if place:
            wrong.append(f"{part} does not agree with the evidence: {place}")
    if "lineage" in evidence:
        others = {one["name"]: one["weights"] for one in evidence["lineage"]["children"][1:]}
        known = lineage(evidence["models"], evidence["inventory"], others)
        wrong += [f"lineage does not agree with the {where}: {place}" for where, of in (("evidence", evidence["lineage"]), (
            "models and the inventory", known)) if (place := difference(certificate["lineage"], of))]
    if evidence["procedure"]["command"] != REPEAT:
        wrong.append(f"the command that repeats the run is {evidence['procedure']['command'][:60]!r}, not {REPEAT!r}")
    claimed = ", ".join(claim["level"] for claim in certificate["claims"] if claim["claimed"])
    return _check("claims", wrong, f"they follow from the evidence: {claimed}")


def _wording(folder: Path, certificate: Mapping[str, Any]) -> Check:
    evidence = document(folder, "evidence.json")
    version = _spoken(certificate, evidence)
    return _check("wording", _misworded(certificate, evidence, version), f"every sentence is that of wording {version}")


def _spoken(certificate: Mapping[str, Any], evidence: Mapping[str, Any]) -> int:
    """The wording of a certificate; one of the first format names none and has whichever fits."""
    if "wording" in certificate:
        return int(certificate["wording"])
    return next((version for version in UNNAMED if not _misworded(certificate, evidence, version)), UNNAMED[0])


def _misworded(certificate: Mapping[str, Any], evidence: Mapping[str, Any], version: int) -> list[str]:
    """Sentences that are not those of a wording."""
    words = texts(version)
    claims = ladder(evidence, words)
    found = {claim["level"]: difference({key: claim[key] for key in SAID}, {key: computed[key] for key in SAID})
             for claim, computed in zip(certificate["claims"], claims, strict=True)}
    found["paragraphs"] = difference(certificate["paragraphs"], words["paragraphs"])
    if "review" in certificate:
        again = review(evidence, datetime.fromisoformat(certificate["issued"]), words)
        found["review"] = difference(certificate["review"], again)
        found["scope"] = difference(certificate["scope"], words["scope"][evidence["audit"]["objective"]])
    found["title"] = difference(certificate.get("title"), headline(claims, words))
    found["leaf"] = difference(certificate["data"]["leaf"], words["leaf"])
    wrong = [f"{part} does not say what wording {version} says: {place}" for part, place in found.items() if place]
    if not possible(evidence["inventory"], words):
        wrong.append("the inventory is none that Lethe writes: an artefact is left out, or covered without a reason")
    return wrong


def _page(folder: Path, certificate: Mapping[str, Any]) -> Check:
    item = next(one for one in certificate["files"] if one["path"] == "certificate.html")
    shown, evidence = whole(folder / "certificate.html"), document(folder, "evidence.json")
    if sha256(shown) != item["sha256"]:
        return Check("certificate.html", FAILED, "the page was edited after it was signed; believe certificate.json only")
    if page.render(certificate, evidence, _spoken(certificate, evidence)).encode() != shown:
        return Check("certificate.html", FAILED, "the page does not show what certificate.json says; believe that only")
    return Check("certificate.html", OK, "the page shows what certificate.json says")


def _model(folder: Path, model: Path | None) -> Check:
    """The weights by their tensors, whatever order their file has; every other file that was delivered by its digest."""
    from lethe.certificate.weights import GUARD, MOST_HEADER, weights_hash
    from lethe.core.files import file_hash
    from lethe.ledger.rows import visible

    if model is None:
        return Check("model", UNCHECKED, "no model was given (--model FOLDER)")
    files = {item["path"]: item for item in document(folder, "evidence.json")["models"]["files"]}
    if model.is_file():
        size = model.stat().st_size
        same = [path for path, item in files.items() if item["bytes"] == size and item["sha256"] == file_hash(model)]
        return Check("model", OK, f"{model} is the certified {same[0]}") if same else Check(
            "model", FAILED, f"{model} is none of the {len(files)} certified files; it was changed, or is of another model")
    there = {path.relative_to(model).as_posix(): path for path in visible(model)}
    weights = [sum(sizes) for sizes in ([path.stat().st_size for name, path in there.items() if name.endswith(WEIGHTS)],
                                        [item["bytes"] for path, item in files.items() if path.endswith(WEIGHTS)])]
    if weights[0] > weights[1] + MOST_HEADER:
        return Check("model", FAILED, f"another model: {model} holds {weights[0]:,} bytes of weights, certified "
                                      f"are {weights[1]:,}")
    after = document(folder, "certificate.json")["claims"][1]["evidence"]["after"]
    present = weights_hash(model)
    if after != present and after != weights_hash(model, guard=True):
        return Check("model", FAILED, f"another model: the weights in {model} have hash {present[:16]}…, certified are "
                                      f"{after[:16]}…")
    others = {name: path for name, path in there.items() if not name.endswith(WEIGHTS) or name.startswith(f"{GUARD}/")}
    wrong = [f"{name} was not certified" for name in others if name not in files]
    wrong += [f"{name} was changed after it was certified" for name, path in others.items() if name in files
              and (files[name]["bytes"] != path.stat().st_size or files[name]["sha256"] != file_hash(path))]
    wrong += [f"{name} is missing" for name in files if name not in there]
    beside = f", and so are its {len(others)} other files" if others else ""
    return _check("model", wrong, f"the weights in {model} are those of the certificate{beside}")


def _model_signature(folder: Path) -> Check:
    bundle, files = document(folder, "model.sig"), document(folder, "evidence.json")["models"]["files"]
    wrong = shape.faults(bundle, shape.SIGSTORE, "model.sig")
    wrong = wrong or [one for one in [attestation.model_fault(bundle, whole(folder / "model-signing.pem"), files)] if one]
    return _check("model.sig", wrong, f"OpenSSF model signing of the {len(files)} certified files")


def _attestation(folder: Path, certificate: Mapping[str, Any]) -> Check:
    envelope, files = document(folder, "attestation.json"), document(folder, "evidence.json")["models"]["files"]
    statement = attestation.record_statement(certificate, sha256(whole(folder / "certificate.json")), files)
    wrong = shape.faults(envelope, shape.ENVELOPE, "attestation.json")
    wrong = wrong or [one for one in [attestation.record_fault(envelope, bytes.fromhex(certificate["issuer"]), statement)] if one]
    return _check("attestation.json", wrong, "the in-toto statement says what the certificate says")


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
    """The first place at which two data differ, with both values; '' when they are equal. 1 is not true, absent not null."""
    if isinstance(signed, Mapping) and isinstance(computed, Mapping):
        keys = sorted(signed.keys() | computed.keys())
        inner = [difference(signed.get(k, ABSENT), computed.get(k, ABSENT), f"{place}.{k}".lstrip(".")) for k in keys]
        return next((one for one in inner if one), "")
    if isinstance(signed, list) and isinstance(computed, list) and len(signed) == len(computed):
        inner = [difference(a, b, f"{place}[{_named(a, i)}]") for i, (a, b) in enumerate(zip(signed, computed, strict=True))]
        return next((one for one in inner if one), "")
    same = type(signed) is type(computed) and signed == computed
    return "" if same else f"{place or 'it'} is signed as {_short(signed)}, the evidence gives {_short(computed)}"


def _numbers(claim: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in claim.items() if key not in SAID}


def _named(item: Any, place: int) -> str:
    return str(item.get("metric", place)) if isinstance(item, Mapping) else str(place)


def _short(value: Any) -> str:
    text = "nothing" if value is ABSENT else encode(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}…"


def _check(part: str, wrong: list[str], fine: str) -> Check:
    return Check(part, FAILED, "; ".join(wrong[:4])) if wrong else Check(part, OK, fine)
