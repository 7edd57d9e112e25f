"""One record looked up by the person whom it concerns; the certificate in the forms of OpenSSF model signing and in-toto."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PEOPLE, Issued, kept

from lethe.certificate import attestation
from lethe.certificate.canonical import encode
from lethe.certificate.verify import FAILED, OK, check
from lethe.errors import RequestError
from lethe.work.options import Options
from lethe.work.verify import certify, opening_of


def test_a_person_looks_up_their_own_record(issued: Issued, tmp_path: Path) -> None:
    """Forgotten, retained, of someone else, of another certificate, edited; and the proof tells of nobody else."""
    forgotten = kept(issued.work)
    held = next(one for one in PEOPLE if one not in forgotten and _opened(issued, one))
    for name in (forgotten[0], forgotten[1], held):
        (tmp_path / name).write_bytes(encode(_opened(issued, name)))

    def said(folder: Path, name: str, proof: str) -> tuple[str, str]:
        one = next(one for one in check(folder, record=name, proof=tmp_path / proof) if one.part == "record")
        return one.state, one.text

    assert said(issued.folder, forgotten[0], forgotten[0])[0] == OK
    assert said(issued.folder, held, held) == (FAILED, f"{held!r} is among the retained records (1 of 1): it was not removed")
    assert "about another record" in said(issued.folder, forgotten[1], forgotten[0])[1]
    other = certify(issued.run, tmp_path / "other.pem", tmp_path / "other", "retrain").folder
    assert "no record of this certificate" in said(other, forgotten[0], forgotten[0])[1]
    edited = json.loads((tmp_path / forgotten[0]).read_text())
    edited[0]["id"] = held                                            # a proof of one record, under another's name
    (tmp_path / "edited").write_bytes(encode(edited))
    assert "no record of this certificate" in said(issued.folder, held, "edited")[1]
    with pytest.raises(RequestError, match="no training record"):
        _opened(issued, "nobody")


def _opened(issued: Issued, name: str) -> list[dict]:
    try:
        return opening_of(issued.run, issued.key, name, None, Options())
    except RequestError:
        if name == "nobody":
            raise
        return []


def test_the_envelopes_are_those_of_the_documented_formats(issued: Issued) -> None:
    """DSSE, in-toto statement v1, and the root digest of OpenSSF model signing, written out by hand."""
    bundle = json.loads((issued.folder / "model.sig").read_text())
    envelope = json.loads((issued.folder / "attestation.json").read_text())
    signed, claimed = (json.loads(base64.b64decode(one["payload"])) for one in (bundle["dsseEnvelope"], envelope))
    assert signed["predicateType"] == "https://model_signing/signature/v1.0"
    assert [one["name"] for one in signed["predicate"]["resources"]] == ["lethe.json", "model.safetensors"]
    assert {one["_type"] for one in (signed, claimed)} == {"https://in-toto.io/Statement/v1"}
    assert [one["name"] for one in claimed["subject"]] == ["lethe.json", "model.safetensors"]
    assert claimed["predicate"]["title"].startswith("Record of a removal procedure; claimed C0, C1, C2; ")
    assert attestation.pae(b"{}") == b"DSSEv1 28 application/vnd.in-toto+json 2 {}"


def test_the_openssf_client_verifies_the_model(issued: Issued, tmp_path: Path) -> None:
    """`model_signing verify key`: the delivered model holds, a changed one does not."""
    pytest.importorskip("model_signing", reason="the OpenSSF client is not installed: pip install model-signing pyopenssl")
    model = shutil.copytree(issued.model, tmp_path / "model")

    def verified() -> bool:
        return subprocess.run([sys.executable, "-m", "model_signing", "verify", "key", str(model), "--signature",
                               str(issued.folder / "model.sig"), "--public_key", str(issued.folder / "model-signing.pem")],
                              capture_output=True, text=True, check=False).returncode == 0

    assert verified()
    (model / "lethe.json").write_text("{}")
    assert not verified()


def test_an_in_toto_client_verifies_the_attestation(issued: Issued) -> None:
    dsse = pytest.importorskip("securesystemslib.dsse", reason="an in-toto client is not installed: pip install securesystemslib")
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    key = SSlibKey.from_crypto(load_pem_public_key((issued.folder / "public.pem").read_bytes()))
    envelope = json.loads((issued.folder / "attestation.json").read_text())
    key.keyid = envelope["signatures"][0]["keyid"]
    assert dsse.Envelope.from_dict(envelope).verify([key], 1)
