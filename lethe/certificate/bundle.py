"""Issue a certificate: a folder that holds everything needed to check it.

    certificate.json   claims, commitments, hashes of all other files; canonical        (signed)
    signature.json     Ed25519 over the bytes of certificate.json
    public.pem         the issuer's public key; trust the one that the issuer sent you, not this copy
    certificate.html   the same for people
    evidence.json      what the claims are computed from        request.json   the configuration, naming no record
    records.txt        a keyed hash per training record          proofs.json    forgotten records: in before, not in after
    model.sig          OpenSSF model signing of every delivered file, under model-signing.pem
    attestation.json   what is claimed, as an in-toto attestation (`lethe.certificate.attestation`)
    log.json           the run's entries in the ledger, as a chain
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.certificate import attestation, gather, keys, log, page, records
from lethe.certificate.canonical import decode, encode, fixed, sha256
from lethe.certificate.claims import headline, ladder, review
from lethe.certificate.covered import covered
from lethe.certificate.wording import texts, versions
from lethe.core.discretion import secrets
from lethe.core.files import new_folder, sweep
from lethe.errors import LetheError, RequestError
from lethe.results.folder import cache_of, kept, models_kept

if TYPE_CHECKING:
    from lethe.ledger import Ledger
    from lethe.results.schema import Results, Row, Scenario

FORMAT = "lethe-certificate-2"


@dataclass
class Bundle:
    """A certificate that was issued."""

    folder: Path
    certificate: dict[str, Any]
    key_made: bool


@dataclass
class Reopened:
    """The records and the original of a run.

    forget, retain  leaves in ascending order       copies  retained records that equal a forgotten one
    before          hash of the original            learned whether the preprocessing was fitted to all training records
    """

    forget: list[bytes]
    retain: list[bytes]
    copies: int
    before: str
    learned: bool


Reopen = Callable[[Path, "Scenario", bytes], Reopened]   # (run, its scenario, secret of the records)


def issue(run: Path, key_file: Path, reopen: Reopen, output: Path | None = None, method: str | None = None,
          scenario: str | None = None, declare: Path | None = None) -> Bundle:
    """Write and sign the certificate of one model of a finished run, and note it in the ledger beside the runs.

    reopen  reads the records and the original of the run (`lethe.work.verify`)
    """
    results, ledger = covered(run)
    case, row = gather.chosen(results, method, scenario)
    declared = gather.declarations(declare)
    place = output or run.parent / "certificates" / run.name
    sweep(place.parent)
    about = {"run": results.id, "scenario": case.name, "subject": row.name}
    if place.exists():
        return _completed(place, about, key_file, ledger)
    page.require()
    key, made = keys.private_key(key_file)
    documents = _documents(run, results, case, row, declared, ledger, keys.record_secret(key), reopen)
    certificate = _certificate(documents, ledger.head(), keys.raw(key.public_key()).hex())
    documents["certificate.html"] = page.render(certificate, documents["evidence.json"], certificate["wording"]).encode()
    documents["public.pem"] = keys.public_pem(key.public_key())
    delivered = documents["evidence.json"]["models"]["files"]
    signer = attestation.model_key(key)
    documents["model-signing.pem"] = attestation.pem(signer.public_key())
    documents["model.sig"] = attestation.model_signature(signer, delivered)
    files = {name: data if isinstance(data, bytes) else encode(data) for name, data in documents.items()}
    words = secrets(results.config)
    for data in files.values():
        gather.require_no_addresses(data, words)
    certificate["files"] = [{"path": name, "sha256": sha256(data), "bytes": len(data)} for name, data in sorted(files.items())]
    signed = encode(certificate)
    files["certificate.json"] = signed
    files["signature.json"] = encode({"algorithm": "Ed25519", "public_key": certificate["issuer"], "over": "certificate.json",
                                      "signature": key.sign(signed).hex()})
    files["attestation.json"] = encode(attestation.attestation(key, attestation.record_statement(
        fixed(certificate), sha256(signed), delivered)))
    with new_folder(place) as beside:
        for name, data in files.items():
            (beside / name).write_bytes(data)
    ledger.certified(sha256(signed), about, place)
    return Bundle(place, fixed(certificate), made)


def _completed(place: Path, about: Mapping[str, str], key_file: Path, ledger: Ledger) -> Bundle:
    """A certificate that was written and not noted, because its process ended in between: noted. RequestError for any other."""
    refused = RequestError(f"{place} exists; a certificate is never overwritten. Pass --output another folder.")
    if not key_file.exists():
        raise refused
    try:
        key = keys.private_key(key_file)[0]
        signed, evidence = ((place / name).read_bytes() for name in ("certificate.json", "evidence.json"))
        certificate, found = decode(signed, "certificate.json"), decode(evidence, "evidence.json")
        same = (found["run"]["scenario"], found["procedure"]["label"]) == (about["scenario"], about["subject"])
        same &= found["run"]["name"] in gather.names(about["run"], keys.record_secret(key))
        own = certificate["issuer"] == keys.raw(key.public_key()).hex()
    except (OSError, LetheError, KeyError, TypeError):
        raise refused from None
    if not same or not own or ledger.noted(sha256(signed)):
        raise refused
    ledger.certified(sha256(signed), about, place)
    return Bundle(place, certificate, False)


def _documents(run: Path, results: Results, case: Scenario, row: Row,
               declared: Mapping[str, Any], ledger: Ledger, secret: bytes, reopen: Reopen) -> dict[str, Any]:
    from lethe.certificate.weights import weights_hash
    from lethe.ledger.rows import digests

    inside = models_kept(run, case.name, [one.name for one in results.scenarios])
    folder = kept(inside, row.name, [one.name for one in case.subjects])
    if not folder.is_dir():
        raise RequestError(f"{folder} does not exist: the run did not save this model, so there is nothing to certify. Repeat "
                           "it with `lethe run … --again`, or `lethe compare … --export --again`.")
    opened = reopen(run, case, secret)
    data = {**records.commitments(opened.forget, opened.retain), "copies_retained": opened.copies,
            "preprocessing_learned": opened.learned,
            "leaf": texts()["leaf"]}
    models = {"before": opened.before, "after": weights_hash(folder), "files": digests(folder)}
    cache = cache_of(run)
    asked = results.config.get("audit") or {}
    pool = (cache / "pool").is_dir()
    found = {"original_cached": (cache / "original").is_dir(), "work": (run / "work").is_dir(),
             "failures": (run / "failures").is_dir(), "references_cached": pool,
             "shadows_cached": pool and bool(asked.get("shadows")), "others": _others(inside, case, row)}
    events = [{"event": entry["status"], "at": entry["created"], "entry": entry["entry"], "ledger_previous": entry["previous"],
               "ledger_hash": entry["hash"]} for entry in ledger.history(results.id)]
    return {
        "evidence.json": gather.evidence(results, case, row, data, models, found, declared, secret),
        "request.json": gather.configuration(results, row),
        "records.txt": records.records_text(opened.forget, opened.retain).encode(),
        "proofs.json": records.proofs(opened.forget, opened.retain),
        "log.json": log.chained(fixed(events)),
    }


def _others(inside: Path, case: Scenario, row: Row) -> dict[str, str]:
    """The other models that the run keeps of the scenario: name -> hash of the weights."""
    from lethe.certificate.weights import weights_hash

    names = [one.name for one in case.subjects]
    folders = {name: kept(inside, name, names) for name in names if name != row.name}
    return {name: weights_hash(folder) for name, folder in folders.items() if any(folder.rglob("*.safetensors"))}


def _certificate(documents: Mapping[str, Any], head: str, issuer: str) -> dict[str, Any]:
    evidence, words, now = documents["evidence.json"], texts(), datetime.now(UTC)
    claims = ladder(evidence, words)
    made: dict[str, Any] = fixed({
        "format": FORMAT, "wording": versions()[-1], "title": headline(claims, words),
        "issued": now.isoformat(timespec="seconds"), "issuer": issuer,
        "run": evidence["run"], "data": evidence["data"],
        "models": {key: evidence["models"][key] for key in ("before", "after")},
        "claims": claims, "inventory": evidence["inventory"],
        "paragraphs": words["paragraphs"], "scope": words["scope"][evidence["audit"]["objective"]],
        "lineage": evidence["lineage"],
        "review": review(evidence, now, words),
        "chain": {"ledger_head": head, "log": documents["log.json"][-1]["hash"]},
    })
    return made
