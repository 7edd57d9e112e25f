"""The schema of results: old versions stay readable, newer and damaged ones are refused, what is written is read back equal."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from example_results import results

from lethe.errors import StorageError
from lethe.results import schema
from lethe.results.migrations import MIGRATIONS

VERSION1 = Path(__file__).with_name("version1.json")   # written by Lethe before there was a schema: two settings, two seeds


def test_what_version_1_wrote_is_read_and_names_become_fields() -> None:
    found = schema.load(VERSION1)
    rows = found.scenarios[0].subjects
    assert [(row.name, row.label, row.method, row.variant, row.seed, row.role) for row in rows] == [
        ("original", "original", "", 1, None, "original"), ("retrained", "retrained", "", 1, None, "retrained"),
        ("finetune seed 0", "finetune", "finetune", 1, 0, "method"), ("finetune seed 1", "finetune", "finetune", 1, 1, "method"),
        ("finetune (2) seed 0", "finetune (2)", "finetune", 2, 0, "method"),
        ("finetune (2) seed 1", "finetune (2)", "finetune", 2, 1, "method")]
    raw = json.loads(VERSION1.read_text())["scenarios"][0]
    assert found.scenarios[0].doubts[0].text == raw["yardstick_warnings"][0]["text"]
    for row, before in zip(rows, raw["subjects"], strict=True):
        assert row.conclusion.verdict == before["conclusion"]["verdict"] and row.config == before["config"]
        for item, old in zip(row.evidence, before["evidence"], strict=True):
            assert (item.value, item.low, item.high, item.n, item.verdict) == tuple(
                old[key] for key in ("value", "low", "high", "n", "verdict"))
            assert item.yardstick is not None and list(item.yardstick.values) == old["yardstick"]["values"]
            assert item.detail == old["detail"]


def test_a_share_of_a_retraining_is_of_the_processor_where_it_is_known() -> None:
    """Other work on the machine stretches wall time of one and not of the other; a device has no time of the processor."""
    alone, beside_others = schema.Cost(seconds=2.0, cpu_seconds=2.0), schema.Cost(seconds=9.0, cpu_seconds=1.0)
    assert beside_others.of(alone) == 0.5
    assert beside_others.of(schema.Cost(seconds=18.0)) == 0.5
    assert schema.Cost().of(alone) is None and alone.of(schema.Cost()) is None


def test_what_is_written_is_read_back_equal() -> None:
    for found in (schema.load(VERSION1), schema.read(results())):
        text = schema.to_json(found)
        assert schema.read(json.loads(text)) == found and schema.to_json(schema.read(json.loads(text))) == text
        assert json.loads(text)["schema"] == schema.VERSION == len(MIGRATIONS) + 1


def test_numbers_that_are_not_finite_become_null() -> None:
    data = results()
    item = data["scenarios"][0]["subjects"][0]["evidence"][0]
    item.update(value=math.nan, high=math.inf, detail={"curve": [1.0, -math.inf], "deep": {"x": math.nan}})
    item["yardstick"]["sd"] = math.nan
    found = schema.read(data)
    made = found.scenarios[0].subjects[0].evidence[0]
    assert (made.value, made.high, made.detail) == (None, None, {"curve": [1.0, None], "deep": {"x": None}})
    assert made.yardstick is not None and made.yardstick.sd is None
    assert ": NaN" not in schema.to_json(found) and "Infinity" not in schema.to_json(found)
    assert schema.read(json.loads(schema.to_json(found))) == found


def test_results_of_a_newer_lethe_are_refused() -> None:
    with pytest.raises(StorageError, match=rf"r\.json has schema 99; .* up to {schema.VERSION}, so it was not read\. Update"):
        schema.read({**results(), "schema": 99}, "r.json")
    with pytest.raises(StorageError, match="schema 'x'"):
        schema.read({"schema": "x"})


@pytest.mark.parametrize(("place", "value", "words"), [
    (("verdict",), "fine", "scenarios.0.subjects.0.evidence.0.verdict = 'fine'"), (("extra",), 1, "evidence.0.extra"),
    (("value",), "much", "evidence.0.value = 'much'"), (("yardstick", "n"), None, "yardstick.n = 'None'"),
])
def test_damage_is_named_by_its_place(place: tuple[str, ...], value: object, words: str) -> None:
    data = schema.plain(schema.read(results()))
    inside: Any = data["scenarios"][0]["subjects"][0]["evidence"][0]
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = value
    with pytest.raises(StorageError) as error:
        schema.read(data)
    assert words in str(error.value) and "not read" in str(error.value)


@pytest.mark.parametrize("data", [[], {"schema": 1, "scenarios": [{"subjects": [{"role": "method"}]}]},
                                  {"schema": 1, "scenarios": [3]}, {"schema": 1, "id": "x", "scenarios": [{"subjects": 4}]}])
def test_what_has_another_shape_is_refused(data: Any) -> None:
    with pytest.raises(StorageError):
        schema.read(data)


def test_a_file_that_was_cut_short_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(VERSION1.read_text()[:500])
    with pytest.raises(StorageError, match=r"results\.json is not JSON"):
        schema.load(tmp_path)


def test_records_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(schema.read(results()).scenarios[0].subjects[0], "name", "other")   # noqa: B010 (typed, it is an error)


def every_model(model: type[schema.Record] = schema.Record) -> list[type[schema.Record]]:
    return [found for child in model.__subclasses__() for found in (child, *every_model(child))]


@pytest.mark.parametrize("model", every_model(), ids=lambda model: model.__name__)
def test_every_field_says_what_it_is(model: type[schema.Record]) -> None:
    assert (model.__doc__ or "").strip()
    for name, field in model.model_fields.items():
        assert name == "kind" or (field.description or "").rstrip().endswith((".", "…")), f"{model.__name__}.{name}"


def test_the_json_schema_describes_what_is_written() -> None:
    made = schema.json_schema()
    written = schema.plain(schema.read(results()))
    assert set(made["properties"]) == set(written) and "schema" in written
    row = made["$defs"]["Row"]
    assert set(row["properties"]) == set(written["scenarios"][0]["subjects"][0]) and row["additionalProperties"] is False
    assert row["properties"]["role"]["enum"] == ["original", "retrained", "method"]


def test_reading_needs_no_torch_and_starts_quickly() -> None:
    code = ("import sys, time; began = time.perf_counter(); from lethe.results import schema; "
            f"schema.load({str(VERSION1)!r}); took = time.perf_counter() - began; "
            "assert not {'torch', 'numpy', 'scipy'} & set(sys.modules); assert took < 2.0, took")   # 0.3 s on an idle core
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_device_in_place_of_results_is_refused_and_not_read_for_ever() -> None:
    """`lethe report /dev/zero` took all memory of the machine."""
    with pytest.raises(StorageError, match="pipe or a device"):
        schema.load("/dev/zero")
