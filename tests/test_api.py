"""The public functions, as a person uses them from Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

import lethe
from lethe.core.events import Event
from lethe.core.modules import state_fingerprint
from lethe.core.outcome import Outcome
from lethe.core.view import audited, reserved
from lethe.errors import NeedsUnmet, OutOfRange, UnknownKey, UnknownName
from lethe.judge.yardstick import Doubt
from lethe.models.classification.task import Classification
from lethe.models.zoo.mlp import MLP
from lethe.report import words
from lethe.report.page import render
from lethe.report.table import terminal_table
from lethe.train.apply import all_methods
from lethe.train.loop import Settings
from lethe.work.audit import scenario
from lethe.work.forget import Made, run_all
from lethe.work.job import objective_of, of_task
from lethe.work.options import Options
from lethe.work.request import AuditPlan
from lethe.work.retrained import Retrained


@pytest.fixture(scope="module")
def report() -> lethe.Report:
    return lethe.compare(tiny.classification(), ["finetune", {"name": "neggrad_plus", "epochs": 3}], references=4, shadows=0,
                         seed=1)


def test_a_comparison_holds_the_controls_and_every_method(report: lethe.Report) -> None:
    assert [row.name for row in report.rows()] == ["original", "retrained", "finetune", "neggrad_plus"]
    assert report.verdict("original") == "outside"
    assert report.value("original", "forget_accuracy") > 0.9 > report.value("retrained", "forget_accuracy")
    assert report.results.scenarios[0].references.count == 4
    assert all((row.cost.seconds or 0) > 0 for row in report.rows() if row.role == "method")


def test_a_report_is_saved_in_three_forms(report: lethe.Report, tmp_path: Path) -> None:
    for name in ("page.html", "numbers.json", "table.csv"):
        assert report.save(tmp_path / name).stat().st_size > 500
    assert "neggrad_plus" in report.table()


def test_a_method_that_fails_stands_in_the_table_and_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lethe.train.apply.watching", lambda *asked: None)   # the usual watchdog would save it
    wild = {"name": "gradient_ascent", "lr": 1e38}
    found = lethe.compare(tiny.classification(), [wild, "finetune"], references=0, depth="quick")
    failed = next(row for row in found.rows() if row.name == "gradient_ascent")
    assert failed.conclusion.verdict == "failed" and "Lower method.lr" in (failed.error or "")
    assert found.verdict("finetune") == "no yardstick"


def test_the_whole_way_with_ones_own_arrays(tmp_path: Path) -> None:
    train, holdout = tiny.blobs(160, 0, "train").columns, tiny.blobs(80, 1, "holdout").columns
    torch.manual_seed(0)
    model = MLP(6, (16,), 4)
    before = state_fingerprint(model)
    task = lethe.classification(
        model, train=(train["x"], train["y"]), holdout=(holdout["x"].numpy(), holdout["y"].numpy()),
        forget=lethe.where(label=3), recipe=lethe.Recipe(epochs=5, lr=1e-2),
    )
    outcome = lethe.forget(task, lethe.methods.NegGradPlus(beta=0.8), epochs=1, progress=False)
    assert outcome.config["beta"] == 0.8 and outcome.config["epochs"] == 1
    report = lethe.audit(task, outcome, references=3, depth="quick")
    assert report.verdict("neggrad_plus") in ("outside", "inside", "not enough power")
    outcome.save(tmp_path / "unlearned")
    assert (tmp_path / "unlearned" / "model.safetensors").exists()
    assert state_fingerprint(model) == before


def test_an_audit_of_a_model_of_unknown_origin() -> None:
    task = tiny.classification()
    assert lethe.audit(task, task.copy_of_original(), references=4, shadows=0).verdict("unlearned") == "outside"


def test_options_are_checked_before_work_starts() -> None:
    task = tiny.classification()
    with pytest.raises(UnknownKey, match=r"did you mean lr\?|Options:"):
        lethe.forget(task, "neggrad_plus", learning_rate=0.1)
    with pytest.raises(OutOfRange, match="beta"):
        lethe.forget(task, "neggrad_plus", beta=2)
    with pytest.raises(UnknownName, match="did you mean scrub"):
        lethe.forget(task, "scrab")
    with pytest.raises(NeedsUnmet, match="npo uses sequence_logp, which has no meaning for a classification task"):
        lethe.forget(task, "npo")


def test_a_comparison_that_cannot_be_made_is_refused_before_anything_is_trained() -> None:
    heard: list[Event] = []
    with pytest.raises(NeedsUnmet, match="npo uses sequence_logp"):
        lethe.compare(tiny.classification(), ["finetune", "npo"], references=2, progress=heard.append)
    assert heard == []


def test_several_seeds_are_several_rows() -> None:
    found = lethe.compare(tiny.classification(), [lethe.methods.NegGradPlus(epochs=1)], references=0, depth="quick", seeds=2)
    assert [r.name for r in found.rows() if r.role == "method"] == ["neggrad_plus seed 0", "neggrad_plus seed 1"]


def test_the_same_seed_gives_the_same_bits() -> None:
    task = tiny.classification()
    prints = {state_fingerprint(lethe.forget(task, "neggrad_plus", epochs=1, seed=5, progress=False).model) for _ in range(2)}
    assert len(prints) == 1
    other = lethe.forget(task, replace(lethe.methods.NegGradPlus(), epochs=1), seed=6, progress=False)
    assert state_fingerprint(other.model) not in prints


def test_audits_do_not_use_the_unseen_data_that_a_method_learned_from() -> None:
    task = tiny.classification()
    learned = lethe.forget(task, "quantile_matched", progress=False, epochs=1)
    assert learned.unseen_used
    assert not lethe.forget(task, "scrub", progress=False, epochs=1, watchdog=False).unseen_used
    sizes = lethe.audit(task, learned, depth="quick", references=0, shadows=0).results.scenarios[0].sizes
    assert sizes["holdout"] == len(audited(task.holdout)) and sizes["reference"] == len(reserved(task.holdout))
    plain = lethe.audit(task, task.copy_of_original(), depth="quick", references=0, shadows=0)
    assert plain.results.scenarios[0].sizes["holdout"] == len(task.holdout)


def test_all_stands_for_the_methods_that_forget_after_training() -> None:
    task = tiny.classification()
    named = all_methods(task)
    assert {"scrub", "ssd", "delete"} <= set(named) and not {"retrain", "auto", "sisa", "npo"} & set(named)
    alone = Classification(task.copy_of_original(), {"forget": task.forget})
    assert "scrub" not in all_methods(alone) and "gradient_ascent" in all_methods(alone)
    job = of_task(alone, ["all"], AuditPlan(), settings=Settings(max_minutes=1e-4), watchdog=False)
    some = run_all(job, alone, job.runs_on(alone), Options())
    assert [made.label for made in some] == all_methods(alone)


def test_only_references_that_were_given_are_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Lethe trained itself without the forget set needs no alarm that it may have seen it."""
    task, odd = tiny.classification(), Doubt("", (), "odd")
    monkeypatch.setattr("lethe.work.audit.doubts", lambda *evidence: [odd])
    own = lethe.compare(task, ["finetune"], references=2, depth="quick", shadows=0, progress=False)
    assert own.results.scenarios[0].doubts == ()
    job, options = of_task(task, [], AuditPlan(depth="quick", references=0, shadows=0)), Options(None, "test")
    given = scenario(job, task, [], options, Retrained(job, options, provided=[task.build(1), task.build(2)]))
    assert [one.text for one in given.doubts] == ["odd"]


def test_what_an_exact_method_returns_lacks_records_and_suppresses_no_behaviour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the family's requests are about a behaviour, they are about records if every model was computed without them."""
    whole = tiny.classification()
    task = Classification(whole.copy_of_original(), {"forget": whole.forget, "retain": whole.retain})
    monkeypatch.setattr("lethe.work.audit.objective_of", lambda _, again: objective_of("lm", again))
    job, options = of_task(task, [], AuditPlan(depth="quick", audits=("scores",), neighbours=0)), Options(None, "test")
    proven, other = (Made(name, Outcome(task.copy_of_original(), name, guarantee=guarantee)) for name, guarantee in (
        ("shard_lora", {"level": "exact", "basis": "one shard was trained again"}), ("npo", {})))
    told = [scenario(job, task, made, options, Retrained(job, options)).objective
            for made in ([proven], [other], [proven, other])]
    assert told == ["records", "behaviour", "behaviour"]


def test_a_method_without_retained_data_is_said_to_be_watched_on_some() -> None:
    """In the table and on the page; not where the watchdog is off."""
    asked = ["gradient_ascent", "finetune"]
    found = lethe.compare(tiny.classification(), asked, references=0, depth="quick", shadows=0, progress=False)
    assert found.results.scenarios[0].watched == ("gradient_ascent",)
    said = "gradient_ascent saw no retained data; the watchdog did (watchdog: false turns it off)."
    assert said in terminal_table(found.results) and said in render(found.results)
    assert words.watched(()) == ""
