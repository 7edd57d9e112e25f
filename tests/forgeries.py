"""Forged certificates: everything signed again every hash right, and yet each must be refused in a line that names the fault.

The forger holds a key and the whole bundle. `make evidence` prints the line for each; `tests/certificate` holds them to it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lethe.certificate import attestation, keys, log, page
from lethe.certificate.canonical import encode, sha256
from lethe.certificate.claims import accounted
from lethe.certificate.gather import procedure_hash

DOCUMENTS = ("evidence.json", "request.json", "log.json", "proofs.json")


@dataclass
class Forger:
    """A bundle, opened: change what you like, then `seal`."""

    folder: Path
    key: Ed25519PrivateKey
    certificate: dict[str, Any]
    documents: dict[str, Any]
    spoil: list[Callable[[Path], None]] = field(default_factory=list)   # done to the folder after everything was signed

    @property
    def evidence(self) -> dict[str, Any]:
        return self.documents["evidence.json"]

    def seal(self) -> None:
        """Write every document, list its hash, render the page again where it renders, and sign."""
        files = {name: encode(data) for name, data in self.documents.items()}
        made = self.certificate | {"issuer": keys.raw(self.key.public_key()).hex()}
        listed = {item["path"]: item for item in made.pop("files")}
        files["public.pem"] = keys.public_pem(self.key.public_key())
        with suppress(Exception):   # a page cannot be had for every forgery; the old one stays
            files["certificate.html"] = page.render(made, self.evidence, made.get("wording", 1)).encode()
        for name, data in files.items():
            (self.folder / name).write_bytes(data)
            listed[name] = {"path": name, "sha256": sha256(data), "bytes": len(data)}
        made["files"] = list(listed.values())
        delivered = self.evidence["models"]["files"]
        if made["format"] != "lethe-certificate-1":
            signer = attestation.model_key(self.key)
            for name, data in (("model.sig", encode(attestation.model_signature(signer, delivered))),
                               ("model-signing.pem", attestation.pem(signer.public_key()))):
                (self.folder / name).write_bytes(data)
                listed[name] = {"path": name, "sha256": sha256(data), "bytes": len(data)}
            made["files"] = list(listed.values())
        signed = encode(made)
        if made["format"] != "lethe-certificate-1":
            said = attestation.record_statement(made, sha256(signed), delivered)
            (self.folder / "attestation.json").write_bytes(encode(attestation.attestation(self.key, said)))
        (self.folder / "certificate.json").write_bytes(signed)
        (self.folder / "signature.json").write_bytes(encode({
            "algorithm": "Ed25519", "public_key": made["issuer"], "over": "certificate.json",
            "signature": self.key.sign(signed).hex()}))
        for change in self.spoil:
            change(self.folder)


def forged(folder: Path, place: Path, change: Callable[[Forger], None]) -> Path:
    """A copy of the bundle in `folder` with the change, consistent and signed with a key of the forger's."""
    copy = Path(shutil.copytree(folder, place))
    forger = Forger(copy, Ed25519PrivateKey.generate(), json.loads((copy / "certificate.json").read_text()),
                    {name: json.loads((copy / name).read_text()) for name in DOCUMENTS})
    change(forger)
    forger.seal()
    return copy


def another_model(f: Forger) -> None:
    """`--model` would have compared the delivered model with this hash, while C1 speaks of another."""
    f.certificate["models"]["after"] = "d" * 64


def raised_claim(f: Forger) -> None:
    f.certificate["claims"][3].update(claimed=True, statement="(ε, δ)-certified removal with ε 1.0 and δ 1e-5.", why_not="")


def one_for_true(f: Forger) -> None:
    f.certificate["claims"][0]["claimed"] = 1


def stronger_words(f: Forger) -> None:
    f.certificate["claims"][1]["statement"] = "The records are gone from the model, for good."


def no_caution(f: Forger) -> None:
    f.certificate["paragraphs"] = {"Law": "This removal satisfies the law."}


def own_wording(f: Forger) -> None:
    f.certificate["wording"] = 99
    stronger_words(f)


def own_title(f: Forger) -> None:
    f.certificate["title"] = "Proof that everything was forgotten"


def own_scope(f: Forger) -> None:
    f.certificate["scope"] = "Everything that was ever known about the person."


def no_review(f: Forger) -> None:
    f.certificate["review"]["triggers"] = []


def erased_parent(f: Forger) -> None:
    for place in (f.evidence["lineage"], f.certificate["lineage"]):
        place["parents"][0]["state"] = "erased"


def own_key(f: Forger) -> None:
    f.evidence["audit"]["certified_by"] = "the supervisory authority"


def own_key_signed(f: Forger) -> None:
    f.certificate["seal"] = "approved"


def own_verdict(f: Forger) -> None:
    f.evidence["audit"]["conclusion"]["verdict"] = "forgotten"


def covered_backups(f: Forger) -> None:
    for rows in (f.evidence["inventory"], f.certificate["inventory"]):
        next(row for row in rows if row["artefact"] == "backups").update(state="covered")


def no_backups(f: Forger) -> None:
    for rows in (f.evidence["inventory"], f.certificate["inventory"]):
        rows[:] = [row for row in rows if row["artefact"] != "backups"]


def own_command(f: Forger) -> None:
    f.evidence["procedure"]["command"] = "pip install trust-me && trust-me"
    f.certificate["claims"][1]["evidence"]["command"] = f.evidence["procedure"]["command"]


def turned_text(f: Forger) -> None:
    for place in (f.evidence["run"], f.certificate["run"]):
        place["title"] = "Forget \u202eton\u202c everything"


def next_century(f: Forger) -> None:
    f.certificate["issued"] = "2126-11-26T00:00:00+00:00"


def thirtieth_of_february(f: Forger) -> None:
    f.certificate["issued"] = "2026-02-30T00:00:00+00:00"


def before_the_run(f: Forger) -> None:
    f.certificate["issued"] = "2020-01-01T00:00:00+00:00"


def turned_log(f: Forger) -> None:
    chain = ("previous", "hash")
    events = [{key: value for key, value in event.items() if key not in chain} for event in f.documents["log.json"]]
    events[0]["at"] = "2026-11-20T00:00:00Z"
    events[1]["at"] = "2026-11-10T00:00:00Z"
    f.documents["log.json"] = log.chained(events)
    f.certificate["chain"]["log"] = f.documents["log.json"][-1]["hash"]


def absolute_path(f: Forger) -> None:
    data = Path("/etc/hostname")
    size = data.stat().st_size if data.exists() else 0
    f.certificate["files"].append({"path": str(data), "sha256": "0" * 64, "bytes": size})


def path_outside(f: Forger) -> None:
    f.certificate["files"].append({"path": "../issuer.pem", "sha256": "0" * 64, "bytes": 113})


def sparse(f: Forger) -> None:
    """A terabyte of nothing, as signed: reading it would never end."""
    f.spoil.append(lambda folder: os.truncate(folder / "records.txt", 1 << 40))


def sparse_certificate(f: Forger) -> None:
    f.spoil.append(lambda folder: os.truncate(folder / "certificate.json", 1 << 40))


def folder_for_a_file(f: Forger) -> None:
    def swap(folder: Path) -> None:
        (folder / "proofs.json").unlink()
        (folder / "proofs.json").mkdir()
    f.spoil.append(swap)


def folder_for_the_signature(f: Forger) -> None:
    def swap(folder: Path) -> None:
        (folder / "signature.json").unlink()
        (folder / "signature.json").mkdir()
    f.spoil.append(swap)


def pipe_for_a_file(f: Forger) -> None:
    def swap(folder: Path) -> None:
        (folder / "log.json").unlink()
        os.mkfifo(folder / "log.json")
    f.spoil.append(swap)


def small_order_key(f: Forger) -> None:
    """The neutral point as a key: R = the neutral point, S = 0 is a signature of every text."""
    def swap(folder: Path) -> None:
        neutral = (1).to_bytes(32, "little").hex()
        data = json.loads((folder / "certificate.json").read_text()) | {"issuer": neutral}
        (folder / "certificate.json").write_bytes(encode(data))
        (folder / "signature.json").write_bytes(encode({"algorithm": "Ed25519", "public_key": neutral, "over": "certificate.json",
                                                        "signature": neutral + "0" * 64}))
    f.spoil.append(swap)


def other_attestation(f: Forger) -> None:
    """Signed with the same key, about the same files, and saying more."""
    def swap(folder: Path) -> None:
        signed = (folder / "certificate.json").read_bytes()
        said = attestation.record_statement(json.loads(signed), sha256(signed), f.evidence["models"]["files"])
        said["predicate"]["title"] = "Proof that everything was forgotten"
        (folder / "attestation.json").write_bytes(encode(attestation.attestation(f.key, said)))
    f.spoil.append(swap)


def nested(f: Forger) -> None:
    f.spoil.append(lambda folder: (folder / "certificate.json").write_text("[" * 100_000 + "]" * 100_000))


def nested_evidence(f: Forger) -> None:
    f.spoil.append(lambda folder: (folder / "evidence.json").write_text('{"a":' * 900 + "1" + "}" * 900))


def less_epsilon(f: Forger) -> None:
    """Stated in the evidence, in the claim and in its sentence; the noise that it would take is not there."""
    claim = f.certificate["claims"][3]
    said = claim["evidence"]["epsilon"]
    f.evidence["guarantee"]["epsilon"] = claim["evidence"]["epsilon"] = "0.1"
    claim["statement"] = claim["statement"].replace(f"ε {said}", "ε 0.1")


def more_noise(f: Forger) -> None:
    """Another radius than the run was configured with, and the ε that would follow from it."""
    f.evidence["guarantee"]["accountant"]["radius"] = f.certificate["claims"][3]["evidence"]["accountant"]["radius"] = "0.001"


def _restated(f: Forger, **numbers: str | int) -> None:
    """Other numbers under ε, and the ε that follows from them, wherever either stands."""
    claim, evidence = f.certificate["claims"][3], f.evidence["guarantee"]
    said = claim["evidence"]["epsilon"]
    for place in (evidence["accountant"], claim["evidence"]["accountant"]):
        place.update(numbers)
    evidence["epsilon"] = claim["evidence"]["epsilon"] = found = accounted(evidence)
    claim["statement"] = claim["statement"].replace(f"ε {said}", f"ε {found}")


def another_law(f: Forger) -> None:
    """The noise of clipped gradients, accounted for as if models had been clipped: a smaller ε, which its numbers give."""
    _restated(f, law="clipped models", clips="models")


def tighter_models(f: Forger) -> None:
    """Models are said to have been clipped to less than they were: a smaller ε, which the numbers give."""
    _restated(f, radius="0.01")


def louder_noise(f: Forger) -> None:
    """Twice the noise that the configured ε takes, and the ε that it would give."""
    _restated(f, sigma=str(2 * float(f.evidence["guarantee"]["accountant"]["sigma"])))


def more_steps(f: Forger) -> None:
    _restated(f, noisy_steps=40)


def unclipped_models(f: Forger) -> None:
    """The noise of clipped models, accounted for as if gradients had been clipped."""
    _restated(f, law="shifted Gaussian steps", clips="gradients", clip="0.0001")


def louder_noise_alone(f: Forger) -> None:
    for place in (f.evidence["guarantee"]["accountant"], f.certificate["claims"][3]["evidence"]["accountant"]):
        place["sigma"] = "1.0"


def _reconfigured(f: Forger, **options: Any) -> None:
    """The configuration that a run had which was not certified, beside the guarantee of one that was."""
    f.documents["request.json"]["method"].update(options)
    claim, said = f.certificate["claims"][1], f.evidence["procedure"]["sha256"]
    made = procedure_hash(f.documents["request.json"]["method"])
    f.evidence["procedure"]["sha256"] = claim["evidence"]["configuration"] = made
    claim["statement"] = claim["statement"].replace(said[:12], made[:12])


def noise_of_the_seed(f: Forger) -> None:
    """Noise that anybody can draw again, and so subtract."""
    _reconfigured(f, noise_key="")


def part_of_the_weights(f: Forger) -> None:
    """Noise on the head alone; all else is the original's."""
    _reconfigured(f, modifiers={"where": {"name": "names", "patterns": ["head.*"]}})


def cut_short(f: Forger) -> None:
    f.evidence["procedure"]["cost"]["steps"] = 6


OF_A_THEOREM: dict[Callable[[Forger], None], tuple[str, str]] = {   # of a certificate that claims C3
    less_epsilon: ("claims", "C3 does not follow"),
    another_law: ("request.json", "clips is not in the configuration, and ε was computed with models"),
    more_noise: ("request.json", "radius is 0.02 in the configuration"),
    louder_noise: ("request.json", "epsilon is 1.0 in the configuration"),
}
OF_CLIPPED_MODELS: dict[Callable[[Forger], None], tuple[str, str]] = {   # of one whose ε rests on clipped models
    noise_of_the_seed: ("request.json", "no noise_key stands in the configuration"),
    part_of_the_weights: ("request.json", "the modifier where is names"),
    cut_short: ("request.json", "6 steps were taken"),
    less_epsilon: ("claims", "C3 does not follow"),
    louder_noise_alone: ("claims", "C3 does not follow"),
    louder_noise: ("request.json", "epsilon is 1.0 in the configuration"),
    tighter_models: ("request.json", "radius is 0.02 in the configuration"),
    more_steps: ("request.json", "noisy_steps is 10 in the configuration"),
    unclipped_models: ("request.json", "clips is models in the configuration"),
}
FORGERIES: dict[Callable[[Forger], None], tuple[str, str]] = {   # change -> (line that must fail, words in it)
    another_model: ("claims", "C1 is about"),
    raised_claim: ("claims", "C3 does not follow"),
    one_for_true: ("certificate.json", "claimed"),
    stronger_words: ("wording", "C1 does not say"),
    no_caution: ("wording", "paragraphs"),
    own_wording: ("wording", "wording 99"),
    own_title: ("wording", "title"),
    own_scope: ("wording", "scope"),
    no_review: ("wording", "review"),
    erased_parent: ("claims", "lineage"),
    own_key: ("documents", "'certified_by' is no key"),
    own_key_signed: ("certificate.json", "'seal'"),
    own_verdict: ("documents", "'forgotten'"),
    covered_backups: ("wording", "inventory"),
    no_backups: ("wording", "inventory"),
    own_command: ("claims", "command"),
    turned_text: ("certificate.json", "U+202E"),
    next_century: ("dates", "still to come"),
    thirtieth_of_february: ("dates", "no date"),
    before_the_run: ("dates", "before the run ended"),
    turned_log: ("dates", "do not follow"),
    absolute_path: ("files", "no file of a certificate"),
    path_outside: ("files", "no file of a certificate"),
    sparse: ("records.txt", "bytes"),
    sparse_certificate: ("certificate.json", "bytes"),
    folder_for_a_file: ("proofs.json", "folder"),
    folder_for_the_signature: ("signature", "folder"),
    pipe_for_a_file: ("log.json", "pipe"),
    small_order_key: ("signature", "small order"),
    other_attestation: ("attestation.json", "does not say"),
    nested: ("certificate.json", "cannot be read"),
    nested_evidence: ("claims", "canonical"),
}
