"""`lethe schema`: what it prints is JSON Schema that fits what Lethe writes and reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from example_results import results
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.core.catalogue import entries
from lethe.errors import UnknownName
from lethe.results import schema

PRESETS = sorted((Path(__file__).parents[2] / "presets").glob("*.yaml"))


def printed(what: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["schema", what], catch_exceptions=False)
    assert done.exit_code == 0
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def faults(data: Any, wanted: dict[str, Any], whole: dict[str, Any], place: str = "") -> list[str]:
    """Where `data` does not fit a schema; the few words of JSON Schema that ours use."""
    if "$ref" in wanted:
        return faults(data, whole["$defs"][wanted["$ref"].rsplit("/", 1)[-1]], whole, place)
    for several in ("anyOf", "oneOf"):
        if several in wanted:
            found = [faults(data, one, whole, place) for one in wanted[several]]
            return [] if any(not one for one in found) else min(found, key=len)
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
             "null": type(None)}
    if "type" in wanted and (not isinstance(data, kinds[wanted["type"]]) or (
            isinstance(data, bool) and wanted["type"] in ("integer", "number"))):
        return [f"{place}: {data!r} is no {wanted['type']}"]
    if "enum" in wanted and data not in wanted["enum"]:
        return [f"{place}: {data!r}"]
    if isinstance(data, dict):
        known = wanted.get("properties", {})
        rest = wanted.get("additionalProperties", True)
        missing = [f"{place}.{key} is missing" for key in wanted.get("required", []) if key not in data]
        unknown = [f"{place}.{key} is unknown" for key in data if key not in known and rest is False]
        inner = [fault for key, item in data.items() for fault in faults(
            item, known.get(key, rest if isinstance(rest, dict) else {}), whole, f"{place}.{key}")]
        return missing + unknown + inner
    if isinstance(data, list):
        return [fault for i, item in enumerate(data) for fault in faults(item, wanted.get("items", {}), whole, f"{place}[{i}]")]
    return []


def test_results_fit_their_schema() -> None:
    wanted = printed("results")
    data = schema.plain(schema.read(results()))
    assert faults(data, wanted, wanted) == []
    data["scenarios"][0]["subjects"][0]["evidence"][0]["verdict"] = "fine"
    assert faults(data, wanted, wanted) == [".scenarios[0].subjects[0].evidence[0].verdict: 'fine'"]
    del data["id"]
    assert ".id is missing" in faults(data, wanted, wanted)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_fits_the_schema_of_a_request(preset: Path) -> None:
    wanted = printed("request")
    assert faults(yaml.safe_load(preset.read_text()), wanted, wanted) == []


def test_the_schema_of_a_request_says_what_its_fields_are() -> None:
    wanted = printed("request")
    assert wanted["required"] == ["model"]   # a diffusers folder tells the rest
    assert wanted["properties"]["family"]["enum"] == sorted(entries("families"))
    assert "retrained models" in wanted["$defs"]["AuditPlan"]["properties"]["references"]["description"]
    assert faults({"family": "lm", "model": {}, "data": {}, "metod": "npo"}, wanted, wanted) == [".metod is unknown"]


def test_another_name_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean results"):
        CliRunner().invoke(app, ["schema", "result"], catch_exceptions=False)
