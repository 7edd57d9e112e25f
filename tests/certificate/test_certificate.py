"""What a certificate says and does not say, and what must never stand in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from conftest import PEOPLE, Issued
from example_claims import EXAMPLES, a_test, base

from lethe.certificate import gather, keys, page
from lethe.certificate.canonical import decode, encode, fixed, sha256
from lethe.certificate.claims import empirical, headline, ladder, review
from lethe.certificate.inventory import inventory
from lethe.certificate.wording import texts, versions
from lethe.errors import DataError, NotFinite, RequestError, StorageError
from lethe.ledger import Ledger
from lethe.results.schema import read
from lethe.work.job import objective_of
from lethe.work.verify import certify as issue

NEVER = re.compile(r"\bgone\b|unrecoverabl|irrecoverabl|complian|ε\s*=|epsilon\s*=", re.IGNORECASE)
BARE = {"original_cached": True, "work": False, "failures": False, "shadows_cached": False, "references_cached": True}


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_never_says_more_than_it_can(name: str) -> None:
    """Claims and page of every kind of evidence: no forbidden word, each level once, the fixed paragraphs."""
    evidence = fixed(EXAMPLES[name]())
    claims = ladder(evidence)
    certificate = fixed({"issued": "now", "issuer": "00", "claims": claims, "inventory": evidence["inventory"],
                         "paragraphs": texts()["paragraphs"], "title": headline(claims, texts()), "scope": "",
                         "lineage": evidence["lineage"],
                         "review": review(evidence, datetime.now(UTC), texts()),
                         "models": evidence["models"],
                         "data": evidence["data"],
                         "chain": {"ledger_head": "2:00"}})
    shown = page.render(certificate, evidence, versions()[-1])
    for text in (shown, encode(certificate).decode()):
        assert not NEVER.search(text), NEVER.search(text)
    assert [claim["level"] for claim in claims] == ["C0", "C1", "C2", "C3", "C4"]
    assert all(claim["statement"] if claim["claimed"] else claim["why_not"] for claim in claims)
    assert "its context" in shown and "Two versions" in shown
    for claim in claims:
        assert claim["does_not_say"].split("'")[0] in shown.replace("&#39;", "'") or not claim["claimed"]


@pytest.mark.parametrize("objective", ["records", "concept", "behaviour"])
def test_only_records_are_said_to_be_of_the_training_data(objective: str) -> None:
    """Prompts of a concept were drawn or thought of, texts that show a behaviour were provided: no model need have read them."""
    evidence = base()
    evidence["audit"]["objective"] = objective
    said = ladder(fixed(evidence))[0]["statement"]
    assert ("training records" in said) == (objective == "records") and ("not said" in said) == (objective != "records")
    assert "training records" in ladder(fixed(evidence), texts(3))[0]["statement"]   # as it was signed before


@pytest.mark.parametrize(("name", "claimed", "words"), [
    ("exact", "C0 C1 C2 C4", {"C2": "on the retained records alone", "C3": "no theorem"}),
    ("certified", "C0 C1 C3", {"C3": "ε 1.0 and δ 0.0001", "C2": "starts from the model"}),
    ("approximate", "C0 C1 C4", {"C4": "2 tests that detect the untouched model"}),
    ("found out", "C0 C1", {"C4": "found a difference"}),
    ("no power", "C0 C1", {"C4": "says nothing"}),
    ("no yardstick", "C0 C1", {"C4": "says nothing"}),
    ("false alarm", "C0 C1", {"C4": "false alarms"}),
    ("worse", "C0 C1", {"C4": "worse than retrained"}),
    ("guard", "C0 C1 C4", {"C1": "the weights still know"}),
    ("copies", "C0 C1 C2 C4", {"C2": "2 retained records have the same content"}),
    ("learned preprocessing", "C0 C1 C4", {"C2": "statistics of all training records"}),
    ("void", "C0 C1 C4", {"C3": "the features were trained on the records"}),
    ("bounds", "C0 C1 C4", {"C4": "lower bound on ε by epsilon_one_run is 0.4"}),
    ("dose", "C0 C1 C4", {"C4": "25 % of the records are seen by the tests of answers: 10 % in 2 of 8, 25 % in 7 of 8"}),
    ("no dose", "C0 C1", {"C4": "would not see even half of the records left in training (10 % in 1 of 8"}),
    ("pair", "C0 C1 C2 C4", {"C2": "learns more than either tells: difference_auc 0.65, difference_base_auc 0.52"}),
])
def test_levels_follow_from_the_evidence(name: str, claimed: str, words: dict[str, str]) -> None:
    claims = {claim["level"]: claim for claim in ladder(fixed(EXAMPLES[name]()))}
    assert " ".join(level for level, claim in claims.items() if claim["claimed"]) == claimed
    for level, said in words.items():
        assert said in claims[level]["statement"] + claims[level]["why_not"]


def test_no_record_stands_in_a_bundle(issued: Issued) -> None:
    """Ids, the title that names one, and hashes that could be searched for names: none of them."""
    results = json.loads((issued.run / "results.json").read_text())
    plain = [results["id"], *results["scenarios"][0]["fingerprints"].values(), *PEOPLE]
    for path in issued.folder.iterdir():
        text = path.read_text()
        assert not [word for word in plain if word in text], path.name
    request = (issued.folder / "request.json").read_text()
    assert "[6 values withheld]" in request and str(issued.run.parent.parent) not in request


def test_record_hashes_need_the_key(issued: Issued, tmp_path: Path) -> None:
    """The same records under two keys have nothing in common; under one key they have the same root."""
    again = issue(issued.run, issued.key, tmp_path / "again", "finetune").certificate
    other = issue(issued.run, tmp_path / "other.pem", tmp_path / "other", "retrain").certificate
    first = json.loads((issued.folder / "certificate.json").read_text())
    assert first["data"] == again["data"] and first["data"]["training"]["root"] != other["data"]["training"]["root"]
    lines = [set((folder / "records.txt").read_text().split()) - {"F", "R"} for folder in (issued.folder, tmp_path / "other")]
    assert not lines[0] & lines[1] and len(lines[0]) == first["data"]["training"]["count"] == 84


def test_the_key_is_private_and_stays_so(issued: Issued, tmp_path: Path) -> None:
    assert issued.key.stat().st_mode & 0o777 == 0o600
    secret = keys.private_key(issued.key)[0].private_bytes_raw().hex()
    body = "".join(issued.key.read_text().splitlines()[1:-1])
    for path in [*issued.folder.iterdir(), issued.run.parent / "ledger.sqlite"]:
        data = path.read_bytes()
        assert secret.encode() not in data and body.encode() not in data
    (tmp_path / "open.pem").write_text(issued.key.read_text())
    (tmp_path / "open.pem").chmod(0o644)
    with pytest.raises(RequestError, match="read by others"):
        keys.private_key(tmp_path / "open.pem")
    (tmp_path / "no.pem").touch(0o600)
    with pytest.raises(RequestError, match="not an unencrypted private key"):
        keys.private_key(tmp_path / "no.pem")


def test_the_ledger_notes_the_certificate_and_stays_whole(issued: Issued) -> None:
    ledger = Ledger(issued.run.parent / "ledger.sqlite")
    certificate = json.loads((issued.folder / "certificate.json").read_text())
    assert ledger.verify(certificate["chain"]["ledger_head"]) is None
    noted = [entry for entry in ledger.runs() if entry["status"] == "certified"]
    assert issued.folder.as_posix() in {entry["folder"] for entry in noted}
    assert not ledger.changed_artefacts(noted[-1]["id"]) and not ledger.changed_artefacts(issued.run.name)


@pytest.mark.parametrize(("changes", "error", "words"), [
    ({}, RequestError, "2 methods"), ({"method": "retrian"}, RequestError, "did you mean retrain"),
    ({"method": "retrain", "scenario": "x"}, RequestError, "no scenario 'x'"),
    ({"method": "retrain", "declared": {"residual_risk": "ask someone@example.org"}}, DataError, "e-mail"),
    ({"method": "retrain", "declared": {"retention": "10 y", "retentoin": "x"}}, RequestError, "did you mean retention"),
    ({"method": "retrain", "declared": {"inventory": {"backups": {"state": "fine", "reason": "x"}}}}, RequestError, "backups"),
    ({"method": "retrain", "declared": {"inventory": {"unlearned model": {"state": "erased", "reason": "x"}}}}, RequestError,
     "cannot be declared"),
])
def test_wrong_requests_write_nothing(issued: Issued, tmp_path: Path, changes: dict, error: type, words: str) -> None:
    asked = {key: value for key, value in changes.items() if key != "declared"}
    if "declared" in changes:
        (tmp_path / "declare.yaml").write_text(yaml.safe_dump(changes["declared"]))
        asked["declare"] = tmp_path / "declare.yaml"
    with pytest.raises(error, match=words):
        issue(issued.run, issued.key, tmp_path / "certificate", **asked)
    assert not (tmp_path / "certificate").exists()


def test_a_run_whose_files_were_changed_is_not_certified(issued: Issued, tmp_path: Path) -> None:
    results = issued.run / "results.json"
    before = results.read_text()
    try:
        results.write_text(before.replace('"seed": 0', '"seed": 1', 1))
        with pytest.raises(StorageError, match="differ from what the ledger noted"):
            issue(issued.run, issued.key, tmp_path / "certificate", "retrain")
        Ledger(issued.run.parent / "ledger.sqlite").record_failure(issued.run.name, {}, "lethe run … --again", "DiskFull")
        with pytest.raises(StorageError, match="differ from what the ledger noted"):
            issue(issued.run, issued.key, tmp_path / "certificate", "retrain")
    finally:
        results.write_text(before)


def test_what_is_declared_stands_in_the_inventory_and_the_subject_is_keyed(issued: Issued, tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(yaml.safe_dump({
        "request": {"received": "2026-01-02", "ground": "consent withdrawn", "subject": PEOPLE[3]},
        "inventory": {"backups": {"state": "expires", "reason": "overwritten after 30 days"}}}))
    made = issue(issued.run, issued.key, tmp_path / "certificate", "retrain", declare=tmp_path / "d.yaml").certificate
    rows = {row["artefact"]: row for row in made["inventory"]}
    assert (rows["backups"]["state"], rows["backups"]["by"]) == ("expires", "declared")
    assert rows["vector stores"]["state"] == "not covered" and rows["original model"]["state"] == "not covered"
    declared = json.loads((tmp_path / "certificate" / "evidence.json").read_text())["request"]["declared"]
    assert declared["subject"].startswith("hmac-sha256:") and declared["ground"] == "consent withdrawn"


def test_the_inventory_says_where_shadow_models_lie() -> None:
    rows = {row["artefact"]: row["state"] for row in inventory({**BARE, "shadows_cached": True, "work": True}, {})}
    assert rows["models of the audit's cache"] == "not covered"
    assert rows["checkpoints and optimiser state of this run"] == "not covered"
    assert {r["artefact"]: r["state"] for r in inventory(BARE, {})}["models of the audit's cache"] == "free of the records"


def test_the_inventory_mentions_tracebacks_that_may_quote_data() -> None:
    with_failures, without = (inventory({**BARE, "failures": there}, {}) for there in (True, False))
    assert [row["state"] for row in with_failures if row["artefact"].startswith("tracebacks")] == ["not covered"]
    assert not any(row["artefact"].startswith("tracebacks") for row in without)


def test_what_is_signed_of_a_run_keeps_its_canonical_form() -> None:
    """Evidence, configuration and procedure of a run of version 1, in the second format of certificates."""
    data = json.loads((Path(__file__).resolve().parents[1] / "results" / "version1.json").read_text())
    data["scenarios"][0]["not_tested"] = [{"audit": "relearn of finetune", "why": "it failed"}]
    data["scenarios"][0]["false_alarms"] = {"outside": 1, "of": 4, "low": 0.0063, "high": 0.8059}
    results = read(data)
    case, row = gather.chosen(results, "finetune (2) seed 1", None)
    made = gather.evidence(results, case, row, {"forgotten": {"count": 1}}, {"before": "a", "after": "b"}, BARE, {}, b"k")
    found = (sha256(encode(made)), sha256(encode(gather.configuration(results, row))), gather.procedure_hash(row.config))
    assert found == ("cefe545d0bfd0525b626ec3d4a65df0a54f14a47450a83392cc7bf1b643c4beb",
                     "5f564a481689432a7a3ebee0bc843af99ee7fa6754562532df10736658b35113",
                     "6e1584e89f2ffbf450e3ddc20412b765d084b35bbf9ccaae6e08340b5f669f93")


def test_canonical_json() -> None:
    """Sorted, no spaces, decimals as shortest strings; one spelling per document."""
    assert encode({"b": 0.1, "a": [1, True, None, "ε"]}) == '{"a":[1,true,null,"ε"],"b":"0.1"}'.encode()
    assert decode(encode({"b": 0.1}), "x") == {"b": "0.1"}
    with pytest.raises(NotFinite):
        encode({"a": float("nan")})
    for other in (b'{"a": 1}', b'{"b":1,"a":1}', b'{"a":1,"a":1}', b'{"a":1.0}', b'{"a":NaN}', b'{"a":1}\n', b'{"a":"\\u00e9"}'):
        with pytest.raises(StorageError):
            decode(other, "x")


def test_a_missing_public_key_or_certificate_is_a_wrong_request(issued: Issued, tmp_path: Path) -> None:
    from lethe.certificate.verify import check

    with pytest.raises(RequestError, match="no certificate"):
        check(tmp_path)
    with pytest.raises(RequestError, match="does not exist"):
        check(issued.folder, tmp_path / "none.pem")
    assert "not a public key" in check(issued.folder, issued.key)[1].text


def test_the_documented_declarations_are_accepted(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "certificates.md").read_text()
    (tmp_path / "d.yaml").write_text(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    rows = {row["artefact"]: row["by"] for row in inventory(BARE, gather.declarations(tmp_path / "d.yaml")["inventory"])}
    assert rows["backups"] == rows["vector stores"] == "declared" and not NEVER.search(text)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["classification", "lm", "diffusion"])
def test_models_of_every_family_have_a_hash_that_follows_their_weights(family: str) -> None:
    from tiny import TASKS

    from lethe.core.outcome import Outcome
    from lethe.work.commit import saved_hash

    task = TASKS[family]()
    twin = task.copy_of_original()
    assert saved_hash(task, None) == saved_hash(task, Outcome(twin, task=task))
    next(iter(twin.parameters())).data.view(-1)[0] += 1
    assert saved_hash(task, None) != saved_hash(task, Outcome(twin, task=task))


def test_names_that_select_records_may_not_slip_in() -> None:
    with pytest.raises(DataError, match="1 values"):
        gather.require_no_addresses(b'{"title":"for Miriam"}', {"Miriam", "7"})
    gather.require_no_addresses(b'{"title":"for Miriams"}', {"Miriam"})


@pytest.mark.slow
def test_commands_and_their_exit_status(issued: Issued, tmp_path: Path) -> None:
    """certify, verify with everything, re-execution, and status 3 and 2."""
    def lethe(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "lethe", *map(str, words)], capture_output=True, text=True, check=False)

    made = lethe("certify", issued.run, "--key", tmp_path / "k.pem", "--method", "finetune", "--output", tmp_path / "c", "--json")
    assert made.returncode == 0 and json.loads(made.stdout)["key_made"] and "made a signing key" in made.stderr
    shutil.copy(tmp_path / "c" / "public.pem", tmp_path / "sent.pem")   # one inside shows nothing about who made it
    asked = ["verify", tmp_path / "c", "--public-key", tmp_path / "sent.pem", "--model",
             issued.run / "models" / "finetune", "--ledger", issued.run.parent / "ledger.sqlite"]
    good = lethe(*asked, "--reexecute", "--run", issued.run, "--json")
    said = json.loads(good.stdout)
    assert good.returncode == 0 and said["holds"] and {c["state"] for c in said["checks"]} == {"ok"}, good.stdout + good.stderr
    assert said["checks"][-1]["part"] == "re-execution"
    (tmp_path / "c" / "certificate.html").write_text("<p>")
    assert lethe(*asked).returncode == 3
    assert lethe("verify", tmp_path).returncode == 2
    assert lethe("verify", tmp_path / "c", "--reexecute").returncode == 2


def test_reasons_are_true_where_nothing_was_retrained() -> None:
    alone = {"depth": "standard", "references": 0, "shadows": 0, "audits": ["scores"]}
    for tests in ([a_test("mia_auc", "outside", kind="holdout")], [a_test("x", "no yardstick", kind=None)]):
        found = empirical(base(audit__budget=alone, audit__tests=tests), texts())
        assert not found["claimed"] and found["why_not"].startswith("Nothing was retrained")
        assert "difference from retrained" not in found["why_not"]


def test_what_may_be_claimed_follows_the_objective() -> None:
    attack = a_test("relearn", "inside", aspect="recovery")
    assert "suppressed" in empirical(base(audit__objective="behaviour"), texts())["statement"]
    bare, tried = (empirical(base(audit__objective="concept", audit__tests=tests), texts())
                   for tests in ([a_test("forget_accuracy", "inside")], [attack]))
    assert not bare["claimed"] and "no attack" in bare["why_not"] and "bring it back (relearn)" in tried["statement"]
    assert "objective" not in empirical(base(audit__objective="records"), texts())["statement"]
    assert [objective_of(*case) for case in (("diffusion", True), ("lm", False), ("lm", True), ("classification", False))] == [
        "concept", "behaviour", "records", "records"]
