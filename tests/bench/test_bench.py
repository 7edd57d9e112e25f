"""Suites: each opens with what it costs and is a valid list of requests; what a suite finds stands in measured/ by method."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from lethe.bench import suite as suites
from lethe.bench.run import run
from lethe.errors import RequestError
from lethe.report.report import load
from lethe.results.measured import read
from lethe.work.options import Options

TINY = """# Two methods on a few digits. Seconds.
keep: [forget_accuracy, holdout_accuracy]
seeds: [0, 1]
requests:
  one class:
    family: classification
    model: {zoo: mlp, options: {inputs: 64, hidden: [16], classes: 10}}
    data: {kind: digits, holdout: 0.5}
    recipe: {epochs: 2, lr: 1.0e-2}
    forget: {label: 3}
    method: [finetune, {name: finetune, lr: 1.0e-9}, gradient_ascent]
    audit: {depth: quick, references: 0, shadows: 0, audits: [scores]}
"""


@pytest.mark.parametrize("name", suites.suites())
def test_a_suite_opens_with_its_cost_and_every_request_is_valid(name: str) -> None:
    assert " min" in suites.expectation(name)
    found = suites.read(name)
    assert found.keep and len(list(found.problems())) == len(found.requests) * len(found.seeds)
    assert [request.seed for _, request in found.problems(["seeds=[7]"])] == [7] * len(found.requests)


def test_an_unknown_suite_proposes_the_nearest() -> None:
    with pytest.raises(RequestError, match="digits"):
        suites.read("digit")


def test_numbers_are_means_over_originals_at_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.setattr(suites, "HERE", tmp_path)
    place = tmp_path / "measured"
    place.mkdir()
    written = run("tiny", [f"output={tmp_path / 'runs'}"], Options(), place)
    assert [path.name for path in written] == ["finetune.json", "gradient_ascent.json"]
    reports = [load(path.parent) for path in sorted(tmp_path.glob("runs/*/results.json"))]
    assert len(reports) == 2
    values = [report.value("finetune", "holdout_accuracy") for report in reports]
    controls = [report.value("original", "holdout_accuracy") for report in reports]
    number = next(one for one in read("finetune", place).numbers if one.metric == "holdout_accuracy")
    assert number.problem == "tiny: one class" and number.seeds == 2 and number.failed == 0
    assert number.mean == pytest.approx(statistics.fmean(values), rel=1e-3)
    assert number.untouched == pytest.approx(statistics.fmean(controls), rel=1e-3)
    assert number.retrained is None and number.command == "lethe bench tiny"   # where the runs went does not matter
    before = {path: path.read_bytes() for path in written}
    assert run("tiny", [f"output={tmp_path / 'runs'}"], Options(), place) == written   # from finished runs
    assert {path: path.read_bytes() for path in written} == before
