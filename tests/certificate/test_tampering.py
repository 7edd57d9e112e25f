"""A certificate that was touched anywhere is refused, and the message names the part."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Issued

from lethe.certificate import keys
from lethe.certificate.canonical import encode
from lethe.certificate.verify import FAILED, OK, UNCHECKED, check
from lethe.core.files import file_hash


def edit(path: Path, change: Callable[[object], object]) -> None:
    """Rewrite a JSON file of the bundle in canonical form after a change."""
    data = json.loads(path.read_text())
    path.write_bytes(encode(change(data) or data))


def config(folder: Path) -> None:
    edit(folder / "request.json", lambda data: data["request"].update(seed=7))


def method_config(folder: Path) -> None:
    edit(folder / "request.json", lambda data: data["method"]["settings"].update(seed=7))


def dropped_forget_record(folder: Path) -> None:
    lines = (folder / "records.txt").read_text().splitlines(keepends=True)
    lines.remove(next(line for line in lines if line.endswith("F\n")))
    (folder / "records.txt").write_text("".join(lines))


def kept_after_all(folder: Path) -> None:
    (folder / "records.txt").write_text((folder / "records.txt").read_text().replace(" F\n", " R\n", 1))


def reordered_log(folder: Path) -> None:
    edit(folder / "log.json", lambda log: log[::-1])


def shortened_log(folder: Path) -> None:
    edit(folder / "log.json", lambda log: log[:-1])


def later_time(folder: Path) -> None:
    edit(folder / "log.json", lambda log: log[0].update(at="1999-01-01T00:00:00Z"))


def metric(folder: Path) -> None:
    edit(folder / "evidence.json", lambda data: data["audit"]["tests"][0].update(value="0.123"))


def level(folder: Path) -> None:
    edit(folder / "certificate.json", lambda data: data["claims"][3].update(claimed=True))


def spelling(folder: Path) -> None:
    (folder / "certificate.json").write_text(json.dumps(json.loads((folder / "certificate.json").read_text()), indent=1))


def twice(folder: Path) -> None:
    text = (folder / "certificate.json").read_text()
    (folder / "certificate.json").write_text('{"format":"x",' + text[1:])


def truncated(folder: Path) -> None:
    data = (folder / "records.txt").read_bytes()
    (folder / "records.txt").write_bytes(data[: len(data) // 2])


def truncated_certificate(folder: Path) -> None:
    data = (folder / "certificate.json").read_bytes()
    (folder / "certificate.json").write_bytes(data[: len(data) // 2])


def html(folder: Path) -> None:
    path = folder / "certificate.html"
    path.write_text(path.read_text().replace("not claimed", "claimed", 1))


def proof(folder: Path) -> None:
    edit(folder / "proofs.json", lambda data: data[0]["not_in_retained"].update(before=None, after=None))


def missing(folder: Path) -> None:
    (folder / "proofs.json").unlink()


def added(folder: Path) -> None:
    (folder / "appendix.txt").write_text("and also")


def signature(folder: Path) -> None:
    edit(folder / "signature.json", lambda data: data.update(signature=data["signature"][::-1]))


TAMPERINGS = {   # change -> (part that must fail, words of its message)
    config: ("files", "request.json"), method_config: ("request.json", "configuration of retrain"),
    dropped_forget_record: ("records.txt", "5 forgotten records, 6 were signed"),
    kept_after_all: ("records.txt", "5 forgotten records, 6 were signed"),
    reordered_log: ("log.json", "reordered"), shortened_log: ("log.json", "not the signed one"),
    later_time: ("log.json", "content of event 1"), metric: ("claims", "value is signed as"), level: ("claims", "C3"),
    spelling: ("certificate.json", "canonical"), twice: ("certificate.json", "stands twice"),
    truncated: ("files", "records.txt has"), truncated_certificate: ("certificate.json", "cut short"),
    html: ("certificate.html", "edited"), proof: ("proofs.json", "proof 1"), missing: ("proofs.json", "missing"),
    added: ("files", "appendix.txt does not belong"), signature: ("signature", "not what was signed"),
}


def sent(folder: Path) -> Path:
    """The issuer's public key, as it came another way than the certificate."""
    return Path(shutil.copy(folder / "public.pem", folder.parent / "issuer.pem"))


@pytest.fixture
def folder(issued: Issued, tmp_path: Path) -> Path:
    return shutil.copytree(issued.folder, tmp_path / "bundle")


def test_an_untouched_certificate_holds(issued: Issued, folder: Path) -> None:
    found = check(folder, sent(folder), issued.model, issued.run.parent / "ledger.sqlite")
    assert [one for one in found if one.state != OK] == []


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda change: change.__name__)
def test_every_tampering_is_named(folder: Path, tamper: Callable[[Path], None]) -> None:
    tamper(folder)
    part, words = TAMPERINGS[tamper]
    failed = {one.part: one.text for one in check(folder, folder / "public.pem") if one.state == FAILED}
    assert part in failed and words in failed[part], failed


def test_another_model_in_its_place_is_named(issued: Issued, folder: Path, tmp_path: Path) -> None:
    found = {one.part: one for one in check(folder, model=issued.run / "models" / "finetune")}
    assert found["model"].state == FAILED and "another model" in found["model"].text
    cut = shutil.copytree(issued.model, tmp_path / "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-4])
    found = {one.part: one for one in check(folder, model=cut.parent)}
    assert found["model"].state == FAILED and "ends inside a tensor" in found["model"].text


def test_every_file_that_was_delivered_is_compared(issued: Issued, folder: Path, tmp_path: Path) -> None:
    """A .pt or .npz beside model.safetensors is what she loads: it is certified, too."""
    def said(model: Path) -> tuple[str, str]:
        one = next(one for one in check(folder, model=model) if one.part == "model")
        return one.state, one.text

    model = shutil.copytree(issued.model, tmp_path / "model")
    assert said(model)[0] == OK and said(model / "model.safetensors")[0] == OK
    (model / "net.pt").write_bytes(b"other weights")
    assert said(model) == (FAILED, "net.pt was not certified")
    edit(folder / "evidence.json", lambda data: data["models"]["files"].append(
        {"path": "net.pt", "sha256": file_hash(model / "net.pt"), "bytes": 13}))
    assert said(model)[0] == OK and said(model / "net.pt")[0] == OK
    (model / "net.pt").write_bytes(b"weights of before")
    assert said(model) == (FAILED, "net.pt was changed after it was certified")
    assert said(model / "net.pt")[0] == FAILED and "none of the" in said(model / "net.pt")[1]


def test_a_certificate_signed_again_by_someone_else_is_not_the_issuers(issued: Issued, folder: Path, tmp_path: Path) -> None:
    """Everything consistent, another key: only the issuer's public key tells."""
    mine, _ = keys.private_key(tmp_path / "mine.pem")
    public = keys.raw(mine.public_key()).hex()
    edit(folder / "certificate.json", lambda data: data.update(issuer=public))
    signed = (folder / "certificate.json").read_bytes()
    (folder / "signature.json").write_bytes(encode({"algorithm": "Ed25519", "public_key": public, "over": "certificate.json",
                                                    "signature": mine.sign(signed).hex()}))
    (folder / "public.pem").write_bytes(keys.public_pem(mine.public_key()))
    assert [one.state for one in check(folder)[:2]] == [OK, UNCHECKED] and "anybody" in check(folder)[1].text
    found = check(folder, issued.folder / "public.pem")[1]
    assert found.state == FAILED and "wrong key" in found.text


def test_a_claim_raised_by_the_issuer_does_not_follow_from_its_evidence(issued: Issued, folder: Path) -> None:
    """Signed with the right key, every hash right: the ladder computed again says no."""
    edit(folder / "certificate.json", lambda data: data["claims"][3].update(claimed=True, statement="certified"))
    key, _ = keys.private_key(issued.key)
    signed = (folder / "certificate.json").read_bytes()
    edit(folder / "signature.json", lambda data: data.update(signature=key.sign(signed).hex()))
    failed = {one.part: one.text for one in check(folder, issued.folder / "public.pem") if one.state == FAILED}
    assert set(failed) == {"claims", "wording", "certificate.html", "attestation.json"}
    assert "C3 does not follow" in failed["claims"]


def test_a_ledger_that_was_shortened_does_not_hold_the_signed_head(issued: Issued, tmp_path: Path) -> None:
    from lethe.ledger import Ledger

    Ledger(tmp_path / "other.sqlite")
    found = {one.part: one for one in check(issued.folder, ledger=tmp_path / "other.sqlite")}
    assert found["ledger"].state == FAILED and "cut off" in found["ledger"].text
