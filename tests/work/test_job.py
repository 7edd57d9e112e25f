"""A request is resolved once: what was looked up before the work is not looked up again, and every run has its own fields."""

from __future__ import annotations

import importlib
from collections import Counter
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import tiny
from torch import nn

from lethe.core import catalogue
from lethe.core.catalogue import entries
from lethe.core.outcome import Outcome
from lethe.data.select import Where
from lethe.errors import NeedsUnmet, OutOfRange, RequestError, UnknownKey, UnknownName
from lethe.train import apply
from lethe.work.execute import carry_out
from lethe.work.forget import run_all
from lethe.work.job import of_task, resolve
from lethe.work.options import Options
from lethe.work.procedure import procedure_of
from lethe.work.request import AuditPlan, Request, parse


def request(folder: Path, **changes: Any) -> Request:
    return parse({"family": "classification", "model": {"zoo": "mlp", "options": {"hidden": [8]}},
                  "data": {"kind": "digits", "limit": 120, "test": 0.2}, "recipe": {"epochs": 0.5}, "forget": {"label": 3},
                  "method": [{"name": "finetune", "epochs": 0.1}, {"name": "random_label", "epochs": 0.1}],
                  "audit": {"depth": "quick", "references": 0, "shadows": 0, "neighbours": 0, "audits": ["scores"]},
                  "output": str(folder), **changes})


def test_a_run_looks_up_each_method_and_audit_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()

    def counted(module: Any, name: str, what: Any) -> None:
        inner = getattr(module, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            key = what(*args)
            if key:
                seen[f"{name} {key}"] += 1
            return inner(*args, **kwargs)

        for place in ("core.catalogue", "train.apply", "work.job", "work.request", "work.procedure"):
            owner = importlib.import_module(f"lethe.{place}")
            if getattr(owner, name, None) is inner:
                monkeypatch.setattr(owner, name, outer)

    counted(catalogue, "entry", lambda kind, name: name if kind in ("methods", "audits") else "")
    counted(catalogue, "record", lambda found: found.name if found.kind in ("methods", "audits") else "")
    counted(apply, "require", lambda task, record, cfg: record.name)
    counted(apply, "method_of", lambda *given: str(given[0]))
    carry_out(request(tmp_path), Options())
    names = ("finetune", "random_label")
    assert seen == {**{f"{verb} {name}": 1 for name in names for verb in ("entry", "record", "require")},
                    "entry scores": 1, "record scores": 1}


def test_what_varies_between_runs_is_in_fields(tmp_path: Path) -> None:
    asked = request(tmp_path, method=["finetune", {"name": "finetune", "lr": 1e-4}], seed=4, seeds=2)
    runs = resolve(asked, Options()).runs
    assert [(run.name, run.label, run.method, run.variant, run.seed) for run in runs] == [
        ("finetune lr=0.01 seed 4", "finetune lr=0.01", "finetune", 1, 4),
        ("finetune lr=0.01 seed 5", "finetune lr=0.01", "finetune", 1, 5),
        ("finetune lr=0.0001 seed 4", "finetune lr=0.0001", "finetune", 2, 4),
        ("finetune lr=0.0001 seed 5", "finetune lr=0.0001", "finetune", 2, 5)]


def test_a_job_cannot_be_changed_and_has_the_name_of_its_request(tmp_path: Path) -> None:
    asked = request(tmp_path)
    job = resolve(asked, Options())
    assert job.hash == asked.hash and job.folder == tmp_path / asked.hash and job.cache == tmp_path / ".cache"
    with pytest.raises(FrozenInstanceError):
        job.hash = "another"  # type: ignore[misc]


def test_margins_are_declared_before_anything_is_read(tmp_path: Path) -> None:
    asked = request(tmp_path, audit={"audits": ["scores"], "margins": {"forget_accuracy": 0.03}})
    assert resolve(asked, Options()).judging.declared.margins["forget_accuracy"] == 0.03
    with pytest.raises(UnknownKey, match=r"audit\.margins names 'rouge'"):
        resolve(request(tmp_path, audit={"audits": ["scores"], "margins": {"rouge": 0.03}}), Options())


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"modifiers": {"where": "lorra"}}, UnknownName, "lora"), ({"watchdog": {"patience": 1}}, UnknownKey, "patience"),
    ({"settings": {"precision": "fp8"}}, OutOfRange, "fp8"), ({"method": {"name": "finetune", "lr": -1}}, OutOfRange, "lr"),
])
def test_every_section_is_checked_when_the_job_is_made(change: dict[str, Any], error: type, words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        resolve(request(tmp_path, **change), Options())


def test_all_stands_for_methods_of_the_family_in_requests_and_from_python(tmp_path: Path) -> None:
    task = tiny.classification()
    asked = [run.method for run in resolve(request(tmp_path, method="all"), Options()).runs]
    job = of_task(task, ["all"], AuditPlan(audits=("scores",)))
    assert asked == [run.method for run in job.runs] and "retrain" not in asked
    assert set(asked) < set(entries("methods"))
    assert [run.method for run in job.runs_on(task)] == apply.all_methods(task)


def test_all_is_refused_where_it_stands_for_nothing(tmp_path: Path) -> None:
    fitted = request(tmp_path, family="fitted_classifier", model={"fit": "forest.py:fit"}, recipe=None, method="all")
    with pytest.raises(RequestError, match=r"no others for fitted_classifier; nothing was started.*retrain, sharded"):
        resolve(fitted, Options())


def test_options_that_are_lists_run_as_a_grid_and_labels_say_what_differs(tmp_path: Path) -> None:
    asked = request(tmp_path, method={"name": "l1_sparse", "lr": [0.1, 0.01], "exclude": ["bias"], "epochs": 2})
    assert [run.label for run in resolve(asked, Options()).runs] == ["l1_sparse lr=0.1", "l1_sparse lr=0.01"]
    same = request(tmp_path, method=["finetune", "finetune", {"name": "finetune", "lr": 0.5}])
    assert [run.label for run in resolve(same, Options()).runs] == ["finetune lr=0.01", "finetune lr=0.01 (2)", "finetune lr=0.5"]


def test_all_leaves_out_a_method_that_refuses_the_task_and_says_why() -> None:
    """scar takes whole classes out at its defaults; a tenth of the data has all of them."""
    task = tiny.classification(Where(fraction=0.5))
    job = of_task(task, ["all"], AuditPlan(audits=("scores",)))
    runs = {run.method: run for run in job.runs_on(task)}
    assert [name for name, run in runs.items() if run.obstacle] == ["scar"]
    (made,) = run_all(job, task, [runs["scar"]], Options())
    assert made.outcome is None and made.failure is not None and "method.removal=examples" in made.failure.text
    named = of_task(task, ["scar"], AuditPlan(audits=("scores",)))
    with pytest.raises(NeedsUnmet, match=r"method\.removal=examples"):   # who asks for it by name has it refused
        named.runs_on(task)


def test_an_option_that_is_called_chosen_is_not_what_a_search_chose(tmp_path: Path) -> None:
    job = resolve(request(tmp_path), Options())
    ftpo = Outcome(nn.Linear(1, 1), config={"name": "ftpo", "chosen": 4})
    assert procedure_of(ftpo, job) is not None and procedure_of(ftpo, job, job.runs[0]) is not None
