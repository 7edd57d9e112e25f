"""Requests: read, overridden, refused. No model is made here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lethe.core.catalogue import entries
from lethe.errors import LetheError, OutOfRange, RequestError, UnknownKey, UnknownName
from lethe.work.request import parse, read

BASE = {"family": "classification", "model": {"zoo": "mlp"}, "data": {"kind": "digits"}, "forget": {"label": 3}}


def test_overrides_reach_nested_options() -> None:
    request = parse({**BASE, "method": "retrain"}, ["seed=3", "audit.references=4", "method={name: neggrad_plus, beta: 0.5}"])
    assert request.seed == 3
    assert request.audit.references == 4
    assert request.methods == [{"name": "neggrad_plus", "beta": 0.5}]


def test_an_option_can_be_set_on_a_method_given_by_name() -> None:
    assert parse({**BASE, "method": "neggrad_plus"}, ["method.lr=0.5"]).methods == [{"name": "neggrad_plus", "lr": 0.5}]


def test_a_list_of_methods_on_the_command_line() -> None:
    assert [m["name"] for m in parse(BASE, ["method=[retrain,neggrad_plus]"]).methods] == ["retrain", "neggrad_plus"]


@pytest.mark.parametrize("family", entries("families"))
def test_a_request_without_a_method_runs_the_usual_one_of_its_family(family: str) -> None:
    usual, = parse({"family": family, "model": {}, "data": {}}).methods
    assert usual == parse({"family": family, "model": {}, "data": {}, "method": usual["name"]}).methods[0]
    assert entries("methods")[usual["name"]].fits(family)
    assert parse({"family": "fitted_classifier", "model": {}, "data": {}}).methods == [{"name": "retrain"}]


def test_equal_requests_have_equal_hashes_wherever_the_output_goes() -> None:
    assert parse(BASE).hash == parse({**BASE, "output": "elsewhere"}).hash != parse({**BASE, "seed": 1}).hash


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["method.learning_rate=1"], UnknownKey, ["learning_rate", "nothing was started", "lethe describe"]),
        (["metod=salun"], UnknownKey, ["metod", "did you mean method?"]),
        (["method=retrian"], UnknownName, ["retrian", "did you mean retrain?"]),
        (["family=vision"], RequestError, ["vision", ", ".join(entries("families"))]),
        (["audit.depth=abyss"], RequestError, ["audit.depth = 'abyss'", "choose quick, standard or deep"]),
        (["audit.references=-1"], OutOfRange, ["references", "-1"]),
        (["seeds"], RequestError, ["key=value"]),
        (["scenarios={a: {forget: {label: 4}}}"], RequestError, ["forget: and scenarios: both", "Leave forget out"]),
        (["forget=null", "scenarios={a: {forget: {label: 4}, method: salun}}"], UnknownKey, ["'a' has 'method'", "no effect"]),
        (["family=lm", "method=retrain", "model="], LetheError, ["model"]),
    ],
)
def test_wrong_requests_are_refused_with_value_consequence_remedy(overrides: list[str], error: type, words: list[str]) -> None:
    with pytest.raises(error) as caught:
        parse({**BASE, "method": "neggrad_plus"}, overrides)
    for word in words:
        assert word in str(caught.value)


def test_a_method_for_another_family_is_refused() -> None:
    name = next(n for n, e in entries("methods").items() if e.families == ["lm"])
    with pytest.raises(RequestError, match="lethe methods --family classification"):
        parse({**BASE, "method": name})


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not exist"):
        read(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(RequestError, match="not YAML"):
        read(tmp_path / "broken.yaml")


@pytest.mark.parametrize("preset", sorted((Path(__file__).parents[2] / "presets").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_preset_is_a_correct_request_and_opens_with_its_cost(preset: Path) -> None:
    read(preset)
    opening = preset.read_text().split("\ntitle:")[0]
    assert "2 CPU cores" in opening and "xpect" in opening and f"presets/{preset.name}" in opening


def test_commands_that_need_no_torch_do_not_import_it() -> None:
    code = "import sys; import lethe.cli.main, lethe.work.request, lethe.results.schema, lethe.report.report, lethe.ledger; " \
           "from lethe.core.catalogue import entries; entries('methods'); entries('audits'); " \
           "print(sorted({'torch', 'scipy', 'sqlalchemy', 'matplotlib', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
