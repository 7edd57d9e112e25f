"""A method or an audit that fails in any way is a row or a line of its own; the others go on, and nothing is hidden."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import test_job
import tiny

import lethe
from lethe.cli.run import status_of
from lethe.core.catalogue import load
from lethe.errors import DiskFull, NeedsUnmet, WorkerDied
from lethe.report.report import Report
from lethe.results.schema import Row
from lethe.train.loop import Settings
from lethe.work.execute import carry_out
from lethe.work.forget import run_all
from lethe.work.job import of_task
from lethe.work.options import Options
from lethe.work.request import AuditPlan


def broken(monkeypatch: pytest.MonkeyPatch, kind: str, name: str, error: BaseException) -> None:
    """Let a method or an audit raise."""
    def fail(*_: Any) -> None:
        raise error

    record: Any = load(kind, name)  # type: ignore[call-overload]
    monkeypatch.setitem(record.__dict__, "run" if kind == "methods" else "measure", fail)


def row(report: Report, name: str) -> Row:
    return next(one for one in report.rows() if one.name == name)


def carried(folder: Path) -> Report:
    asked = test_job.request(folder)
    report = carry_out(asked, Options())
    assert report is not None
    return report


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), MemoryError(), KeyError("weight")], ids=repr)
def test_a_method_that_raises_anything_is_a_row_with_its_traceback(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken(monkeypatch, "methods", "random_label", error)
    report = carried(tmp_path)
    failed, fine = row(report, "random_label"), row(report, "finetune")
    assert failed.conclusion.verdict == "failed" and failed.defect and fine.error is None
    assert failed.error is not None and failed.error.startswith(type(error).__name__) and failed.log is not None
    folder = tmp_path / report.results.id
    text = (folder / failed.log).read_text()
    assert "Traceback" in text and type(error).__name__ in text and failed.log in failed.error
    assert status_of(report) == 1
    assert type(error).__name__ in (folder / "report.html").read_text() and "random_label" in report.table()
    assert status_of(carried(tmp_path)) == 1   # shown again, it is still a defect


def test_an_audit_that_raises_anything_is_a_line_of_what_was_not_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, "audits", "scores", RuntimeError("no such layer"))
    report = carried(tmp_path)
    lines = {line.title: line for line in report.results.scenarios[0].not_tested if line.audit == "scores"}
    assert set(lines) == {"scores of original", "scores of finetune", "scores of random_label"}
    line = lines["scores of finetune"]
    assert line.defect and line.why.startswith("RuntimeError: no such layer") and line.log is not None
    assert "Traceback" in (tmp_path / report.results.id / line.log).read_text()
    assert status_of(report) == 1 and "no such layer" in (tmp_path / report.results.id / "report.html").read_text()


def test_an_error_on_purpose_is_no_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, "methods", "random_label", NeedsUnmet("the shard is dead"))
    broken(monkeypatch, "audits", "scores", NeedsUnmet("too few records"))
    report = carried(tmp_path)
    assert row(report, "random_label").error == "NeedsUnmet: the shard is dead" and status_of(report) == 3
    assert not report.results.scenarios[0].defects and not (tmp_path / report.results.id / "failures").exists()
    assert {line.why for line in report.results.scenarios[0].not_tested if line.audit == "scores"} == {"too few records"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DiskFull("no space left"), SystemExit(3)], ids=repr)
def test_what_must_end_the_run_ends_it(error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, "methods", "random_label", error)
    with pytest.raises(type(error)):
        carried(tmp_path)
    assert not list(tmp_path.glob("*/results.json"))


def test_a_model_that_cannot_be_written_is_a_failed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(outcome: Any, folder: Path) -> None:
        if outcome.method == "random_label":
            raise RuntimeError("tensors share memory")
        Path(folder).mkdir(parents=True)

    monkeypatch.setattr("lethe.core.outcome.Outcome.save", save)
    report = carry_out(test_job.request(tmp_path), Options(export=True))
    assert report is not None and row(report, "random_label").defect and row(report, "finetune").error is None


def test_from_python_the_row_says_where_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, "methods", "random_label", OSError(errno.EIO, "input/output error"))
    found = lethe.compare(tiny.classification(), ["random_label", "finetune"], references=0, depth="quick")
    assert "in test_failures.py, line" in (row(found, "random_label").error or "") and row(found, "random_label").log is None
    assert found.verdict("finetune") == "no yardstick"


def test_an_unexpected_error_of_one_process_of_many_ends_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny.classification()
    job = of_task(task, ["finetune"], AuditPlan(), settings=Settings(distribution="ddp"))

    def raising(error: Exception) -> None:
        def fail(*_: Any) -> None:
            raise error

        monkeypatch.setattr("lethe.work.forget.perform", fail)

    raising(RuntimeError("shapes differ"))
    with pytest.raises(WorkerDied, match=r"finetune failed in process 0 of 1 \(RuntimeError: shapes differ\).*all of them end"):
        run_all(job, task, job.runs_on(task), Options())
    raising(NeedsUnmet("all refuse it alike"))
    assert run_all(job, task, job.runs_on(task), Options())[0].failure is not None
