"""A certificate whose maker signs what he likes is refused in one line; one that was issued long ago still holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Issued
from forgeries import FORGERIES, OF_A_THEOREM, OF_CLIPPED_MODELS, Forger, forged

from lethe.certificate.canonical import sha256
from lethe.certificate.shape import FREE, faults, plain
from lethe.certificate.verify import FAILED, check
from lethe.certificate.wording import template, versions
from lethe.cli.certificate import verify

OLD = sorted((Path(__file__).parent / "issued").iterdir())
WORDINGS = {   # what certificates were signed with: a better word is a new version, never another hash here
    0: "1c82fe65f4f0130b58a9cf7d5dfff19f2d1143026dd0a2415372994980f23cfc",
    1: "c09eed5dd496f2dc63b8770c04985e0ff073d0f00c393a370d9e043a37fb809d",
    2: "d0d53d94e44746934547b067d3e1f5abd145740abc219767d70c596bc843237e",
    3: "ade06faac04cb5b7da94a885be4c39c3ab3ca0ed34faf66c6afcfa0ae517b302",
    4: "805643b7cdbae15afb8f70fcd6e62deb8060d0c3805b0f116c1061567f67259d",
}


@pytest.mark.parametrize("change", FORGERIES, ids=lambda change: change.__name__)
def test_every_forgery_is_refused_in_a_line(issued: Issued, tmp_path: Path, change: Callable[[Forger], None]) -> None:
    part, words = FORGERIES[change]
    failed = {one.part: one.text for one in check(forged(issued.folder, tmp_path / "forged", change)) if one.state == FAILED}
    assert part in failed and words in failed[part], failed


@pytest.mark.parametrize(("bundle", "change"), [*(("certified", change) for change in OF_A_THEOREM),
                                                *(("clipped", change) for change in OF_CLIPPED_MODELS)])
def test_the_epsilon_of_a_certificate_is_computed_again(tmp_path: Path, bundle: str, change: Callable[[Forger], None]) -> None:
    part, words = (OF_A_THEOREM if bundle == "certified" else OF_CLIPPED_MODELS)[change]
    old = Path(__file__).parent / "issued" / bundle
    failed = {one.part: one.text for one in check(forged(old, tmp_path / "forged", change)) if one.state == FAILED}
    assert part in failed and words in failed[part], failed


def test_a_bundle_sealed_again_without_a_change_is_no_forgery(issued: Issued, tmp_path: Path) -> None:
    assert [one for one in check(forged(issued.folder, tmp_path / "same", lambda f: None)) if one.state == FAILED] == []


def test_what_is_signed_has_no_marks_that_a_check_would_refuse() -> None:
    said = {"title": "Forget \u202eton\u202c\x1b[31m everything", "notes": ["a\nb\u2067"]}
    assert plain(said) == {"title": "Forget ton[31m everything", "notes": ["a\nb"]} and not faults(plain(said), FREE, "x")


@pytest.mark.parametrize("old", OLD, ids=lambda path: path.name)
def test_what_was_issued_once_holds(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [one for one in check(old) if one.state == FAILED] == []
    assert verify(old, None, None, None, None, None, False)
    said = capsys.readouterr().out.splitlines()[-1]
    assert "Nobody stands behind it" in said, said


def test_a_wording_that_was_signed_with_is_never_edited() -> None:
    from lethe.certificate import wording

    found = {version: sha256((Path(wording.__file__).parent / f"{version}.yaml").read_bytes() + template(version).encode())
             for version in versions()}
    assert found == WORDINGS
