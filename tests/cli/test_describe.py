"""`lethe describe`: every kind of thing, every section of a request, as text and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lethe.cli import describe
from lethe.cli.main import app
from lethe.core.catalogue import KINDS, SEAMS, entries
from lethe.core.source_text import HOUSE, Option
from lethe.errors import OutOfRange, RequestError, UnknownName


def told(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def data(*words: str) -> Any:
    return json.loads(told(*words, "--json"))


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_described_as_text_and_as_json(kind: str) -> None:
    for name, entry in entries(kind).items():  # type: ignore[arg-type]
        assert describe.text_of(entry).startswith(entry.doc.strip()[:20])
        whole = json.loads(json.dumps(describe.facts(entry, whole=True), default=str))
        assert whole["name"] == name and whole["kind"] == kind


@pytest.mark.parametrize("name", [*KINDS, *SEAMS, "sections"])
def test_a_kind_or_a_seam_lists_what_belongs_to_it(name: str) -> None:
    assert data("describe", name)
    assert told("describe", name).strip()


def test_methods_without_retained_data_are_listed_with_what_the_watchdog_reads() -> None:
    said = told("methods", "--without", "retain")
    assert "gradient_ascent" in said and "the watchdog scores every run on a part of them" in said
    assert "watchdog" not in told("methods", "--without", "recipe").rpartition("\n\n")[2]
    assert all("retain" not in one["needs"] for one in data("methods", "--without", "retain"))


@pytest.mark.parametrize("section", describe.SECTIONS)
def test_a_section_of_the_request_lists_its_options(section: str) -> None:
    found = data("describe", section)
    assert found["options"] and all(one["type"] for one in found["options"])
    assert found["options"][0]["name"] in told("describe", section)


def option(found: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(one for one in found if one["name"] == name)


def test_choices_are_listed_whatever_the_name_of_their_type() -> None:
    assert option(data("describe", "recipe")["options"], "optimiser")["choices"] == ["sgd", "adam", "adamw"]
    assert option(data("describe", "settings")["options"], "precision")["choices"] == ["float32", "bfloat16"]
    assert option(data("describe", "table")["options"], "target")["choices"] == ["class", "number", "standard", "log"]
    assert "optimiser: sgd | adam | adamw = 'adamw'" in told("describe", "recipe")


def test_the_strategies_of_a_pool_are_the_files_of_its_backends() -> None:
    from lethe.pools.backends import names

    option = next(one for one in data("describe", "audit")["options"] if one["name"] == "strategy")
    assert option["choices"] == ["auto", *names()] and "strategy: auto | gpus |" in told("describe", "audit")


def test_a_family_lists_model_and_data() -> None:
    lm = data("describe", "lm")
    assert option(lm["model"], "attention")["choices"] == ["auto", "sdpa", "eager"]
    assert option(lm["data"], "train")
    regression = data("describe", "regression")
    assert option(regression["model"], "loss") and option(regression["model"], "zoo")   # its own and what it inherits


def test_short_and_full_names() -> None:
    assert data("describe", "lora")["name"] == data("describe", "where.lora")["name"] == "where.lora"
    assert data("describe", "zoo.small_cnn")["name"] == "small_cnn"
    assert option(data("describe", "small_cnn")["options"], "side")["default"] == "8"


def test_an_unknown_name_proposes_the_nearest() -> None:
    for wrong, near in (("salum", "salun"), ("lroa", "lora"),
                        ("smal_cnn", "small_cnn"), ("recipy", "recipe"), ("tabel", "table")):
        with pytest.raises(UnknownName, match=f"did you mean {near}"):
            describe.found(wrong)


def test_a_name_of_two_things_asks_which(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = {**entries("zoo"), "table": entries("zoo")["mlp"].__class__(**{**vars(entries("zoo")["mlp"]), "name": "table"})}
    monkeypatch.setattr(describe, "entries", lambda kind: zoo if kind == "zoo" else entries(kind))
    with pytest.raises(RequestError, match=r"lethe describe sources\.table, lethe describe zoo\.table"):
        describe.found("table")


def test_an_unknown_family_is_refused_by_the_lists() -> None:
    with pytest.raises(UnknownName, match="did you mean regression"):
        describe.methods(family="regresion")


def test_a_choice_among_other_types_keeps_the_type() -> None:
    assert Option("a", "Positive | Literal['auto']", "1", "", ("auto",)).values == "Positive | Literal['auto']"


def test_listing_and_describing_import_no_torch() -> None:
    code = ("import sys; from lethe.cli import describe as d; from lethe.core.catalogue import KINDS, entries\n"
            "for kind in KINDS:\n    for one in entries(kind).values(): d.text_of(one)\n"
            "for s in d.SECTIONS: d.section_record(s)\n"
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_need_that_nothing_has_proposes_the_nearest() -> None:
    found = CliRunner().invoke(app, ["methods", "--without", "retian"])
    assert isinstance(found.exception, UnknownName) and "did you mean retain?" in str(found.exception)


@pytest.mark.parametrize(("option", "wrong", "near"), [
    ("--method", "salum", "salun"), ("--family", "regresion", "regression"), ("--verdict", "insde", "inside")])
def test_a_filter_of_results_that_nothing_has_proposes_the_nearest(option: str, wrong: str, near: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["results", "--output", str(tmp_path), option, wrong])
    assert isinstance(found.exception, UnknownName) and f"did you mean {near}?" in str(found.exception)


@pytest.mark.parametrize("words", ["results --export", "report runs/a --output", "audit runs/a --output"])
def test_what_is_no_page_or_table_is_not_written_over(words: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, [*words.split(), str(tmp_path / "net.py")])
    assert isinstance(found.exception, OutOfRange) and "net.py does not end in" in str(found.exception), found.exception


def test_every_text_is_written_and_read_as_utf_8_whatever_the_locale() -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--preview", "--select", "PLW1514", str(HOUSE)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
