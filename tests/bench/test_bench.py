"""Suites: each opens with what it costs and is a valid list of requests; what a suite finds stands in measured/ by method."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest

from lethe.bench import suite as suites
from lethe.bench.run import require_reported, run
from lethe.bench.unit import Unit
from lethe.errors import RequestError
from lethe.report.report import load
from lethe.results.measured import read
from lethe.work.options import Options

TINY = """# Two methods on a few digits. Seconds.
keep: [holdout_accuracy, points lost]
seeds: [0, 1]
requests:
  one class:
    family: classification
    model: {zoo: mlp, options: {inputs: 64, hidden: [16], classes: 10}}
    data: {kind: digits, holdout: 0.5}
    recipe: {epochs: 2, lr: 1.0e-2}
    forget: {label: 3}
    method: [finetune, {name: finetune, lr: 1.0e-9}, gradient_ascent, {name: delete, lr: 1.0e-12}]
    audit: {depth: quick, references: 0, shadows: 0, audits: [scores]}
"""


@pytest.mark.parametrize("name", suites.suites())
def test_a_suite_opens_with_its_cost_and_every_request_is_valid(name: str) -> None:
    assert " min" in suites.expectation(name)
    found = suites.read(name)
    require_reported(found, [Unit(*one) for one in found.problems()])
    assert found.keep and len(list(found.problems())) == len(found.requests) * len(found.seeds)
    assert [request.seed for _, request in found.problems(["seeds=[7]"])] == [7] * len(found.requests)


def test_a_method_that_is_named_keeps_the_options_that_the_suite_gives_it() -> None:
    own = {"method": ["icul", {"name": "tar", "steps": 40}, {"name": "npo", "lr": 1.0}, {"name": "npo", "lr": 2.0}]}
    for asked, want in {"[tar, icul]": [own["method"][1], "icul"], "tar": own["method"][1], "npo": own["method"][2:],
                        "[sku, {name: tar, steps: 1}]": ["sku", {"name": "tar", "steps": 1}], "all": "all"}.items():
        assert suites.selected(own, [f"method={asked}", "method.lr=3"]) == ({"method": want}, ["method.lr=3"])
    (_, request), *_ = suites.read("tofu").problems(["problems=[an author]", "method=[tar]"])
    assert request.methods == [{"name": "tar", "lr": 3.0e-4, "batch_size": 4, "steps": 40}]


def test_an_unknown_suite_proposes_the_nearest() -> None:
    with pytest.raises(RequestError, match="digits"):
        suites.read("digit")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.setattr(suites, "HERE", tmp_path)
    (tmp_path / "measured").mkdir()
    return tmp_path


def test_numbers_are_means_over_originals_at_the_defaults(tiny: Path) -> None:
    place, runs = tiny / "measured", f"output={tiny / 'runs'}"
    written = run("tiny", [runs], Options(), place).written
    assert [path.name for path in written] == ["delete.json", "finetune.json", "gradient_ascent.json"]
    reports = [load(path.parent) for path in sorted(tiny.glob("runs/*/results.json"))]
    assert len(reports) == 8   # two originals, and three methods on each
    mine = [report for report in reports if report.results.config["method"] == [{"name": "finetune"}]]
    values = [report.value("finetune", "holdout_accuracy") for report in mine]
    controls = [report.value("original", "holdout_accuracy") for report in mine]
    found = {one.metric: one for one in read("finetune", place).numbers}
    number = found["holdout_accuracy"]
    assert number.problem == "tiny: one class" and number.seeds == 2 and number.failed == 0
    assert number.mean == pytest.approx(statistics.fmean(values), rel=1e-3)
    assert number.untouched == pytest.approx(statistics.fmean(controls), rel=1e-3)
    assert number.retrained is None and number.command == "lethe bench tiny"   # where the runs went does not matter
    assert found["points lost"].mean == pytest.approx(100 * (statistics.fmean(controls) - statistics.fmean(values)), abs=0.01)
    before = {path: path.read_bytes() for path in written}
    times = {path: path.stat().st_mtime_ns for path in tiny.glob("runs/*/results.json")}
    assert run("tiny", [runs], Options(), place).written == written   # from finished runs
    assert {path: path.read_bytes() for path in written} == before
    assert {path: path.stat().st_mtime_ns for path in tiny.glob("runs/*/results.json")} == times


def test_methods_together_find_the_same_bits_and_their_own_sizes(tiny: Path) -> None:
    found = {}
    for together in ("false", "true"):
        text = TINY.replace("points lost]", f"artefact, memory]\ntogether: {together}")
        (tiny / "tiny.yaml").write_text(text)
        place = tiny / f"measured {together}"
        place.mkdir()
        run("tiny", [f"output={tiny / together}", "seeds=[0]"], Options(), place)
        found[together] = {name: {one.metric: one.mean for one in read(name, place).numbers}
                           for name in ("finetune", "gradient_ascent")}
        assert len(list((tiny / together).glob("*/results.json"))) == (2 if together == "true" else 4)
    for name, values in found["true"].items():
        assert values["holdout_accuracy"] == found["false"][name]["holdout_accuracy"]
        assert values["artefact"] == found["false"][name]["artefact"] == pytest.approx(0.006, abs=0.003)   # 1,210 numbers
        assert values["memory"] > 50


def test_a_row_that_fails_is_a_row(tiny: Path) -> None:
    run("tiny", [f"output={tiny / 'runs'}", "seeds=[0]"], Options(), tiny / "measured")
    found = read("delete", tiny / "measured")
    assert [(one.mean, one.seeds, one.failed) for one in found.numbers] == [(None, 0, 1)] * 2   # no points lost: no model
    (reason,) = found.reasons
    assert reason.kind == "unchanged" and reason.seeds == (0,) and "nothing changed" in reason.text


@pytest.mark.slow
def test_processes_find_the_same_bits(tiny: Path) -> None:
    found = {}
    for workers in (1, 2):
        place = tiny / f"measured{workers}"
        place.mkdir()
        run("tiny", [f"output={tiny / f'runs{workers}'}", "method=[finetune]"], Options(), place, workers)
        found[workers] = (place / "finetune.json").read_bytes()
    assert found[1] == found[2]


@pytest.mark.parametrize(("old", "new", "overrides", "words"), [
    ("keep: [", "keep: [fogotten, ", [], "'fogotten', which no audit reports (did you mean forgotten?"),
    ("keep: [", "keep: [forget_acuracy, ", [], "no audit of these requests reports (did you mean forget_accuracy?"),
    ("keep: [", "keep: [relearn_few, ", [], "'relearn_few', which no audit of these requests reports"),
    ("", "", ["seed=4"], "seeds=[4]"),
])
def test_what_would_measure_nothing_is_refused(tiny: Path, old: str, new: str, overrides: list[str], words: str) -> None:
    (tiny / "tiny.yaml").write_text(TINY.replace(old, new) if old else TINY)
    with pytest.raises(RequestError, match=re.escape(words)):
        run("tiny", [f"output={tiny / 'runs'}", *overrides], Options(), tiny / "measured")
    assert not list((tiny / "measured").iterdir())


def test_a_problem_whose_data_are_not_here_is_left_out(tiny: Path) -> None:
    (tiny / "tiny.yaml").write_text(TINY.replace("kind: digits", "kind: cifar10, parts: test"))
    ran = run("tiny", [f"output={tiny / 'runs'}", "seeds=[0]"], Options(data_root=tiny), tiny / "measured")
    assert not ran.written and "images" in ran.absent["one class"]
