"""Every field of a request and of its audit plan counts: another value gives other results."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lethe.work.execute import carry_out
from lethe.work.options import Options
from lethe.work.request import AuditPlan, Request, parse

BASE: dict[str, Any] = {
    "family": "classification", "model": {"zoo": "mlp", "options": {"hidden": [8]}},
    "data": {"kind": "digits", "limit": 120, "test": 0.2}, "recipe": {"epochs": 0.5}, "forget": {"label": 3},
    "method": {"name": "finetune", "epochs": 1.0, "lr": 0.1},
    "audit": {"depth": "quick", "references": 0, "shadows": 0, "neighbours": 0, "audits": ["scores"]}}
POOL = {"references": 3, "audits": ["scores", "layers"]}

LADDER = {"audit": {**BASE["audit"], "references": 3}, "recipe": {"epochs": 3.0}}

# field -> another value, or (what is set in both, another value)
REQUEST: dict[str, Any] = {
    "family": ({"data": {"kind": "bundled", "name": "diabetes", "test": 0.2}, "forget": {"query": "target > 200"},
                "model": {"zoo": "mlp", "options": {"inputs": 10, "hidden": [8], "classes": 1}}}, "regression"),
    "model": {"zoo": "mlp", "options": {"hidden": [9]}}, "data": {"kind": "digits", "limit": 130, "test": 0.2},
    "title": "Another", "forget": {"label": 4}, "scenarios": {"one": {"forget": {"label": 4}}},
    "recipe": {"epochs": 1.0}, "method": {"name": "finetune", "epochs": 2.0, "lr": 0.1}, "settings": {"max_steps": 1},
    "modifiers": {"average": "ema"},
    "watchdog": ({"recipe": {"epochs": 20.0, "lr": 0.01}, "method": {"name": "gradient_ascent", "epochs": 20.0,
                                                                                "lr": 1.0}}, False),
    "seed": 1, "seeds": 2, "objective": "behaviour", "until": (LADDER, "forgotten"),
    "within": ({**LADDER, "until": "forgotten"}, 1.5)}
PLAN: dict[str, Any] = {
    "depth": ({"audits": []}, "standard"), "references": 3, "shadows": ({**POOL, "audits": ["rmia"], "depth": "deep"}, 8),
    "audits": ["scores", "layers"], "neighbours": 8, "strategy": ({**POOL, "strategy": "serial"}, "processes"),
    "margins": ({"references": 3}, {"forget_accuracy": 0.5}), "max_loss": 0.2}
# policy: in tests/work/test_calibrate.py
SLOW = ("depth", "shadows", "until", "within")

FIELDS = [pytest.param(field.name, marks=pytest.mark.slow if field.name in SLOW else ()) for cls in (Request, AuditPlan)
          for field in dataclasses.fields(cls) if field.name not in ("audit", "output", "accept", "policy")]


def told(content: dict[str, Any]) -> str:
    """The results of a request, without times and names."""
    carry_out(parse(content), Options())
    data = json.loads(next(Path(content["output"]).glob("*/results.json")).read_text())
    for key in ("id", "created", "command", "config"):
        data.pop(key, None)
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:+.Z]+", "", json.dumps(untimed(data), sort_keys=True))   # without moments


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(inner) for key, inner in value.items() if "seconds" not in key and key not in ("cost", "config")}
    return [untimed(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("key", FIELDS)
def test_another_value_gives_other_results(key: str, tmp_path: Path) -> None:
    other = (REQUEST | PLAN)[key]
    besides, other = other if isinstance(other, tuple) else ({}, other)
    usual, changed = ({**BASE, "audit": dict(BASE["audit"]), "output": str(tmp_path / where)} for where in ("usual", "changed"))
    for content in (usual, changed):
        (content["audit"] if key in PLAN else content).update(besides)
    (changed["audit"] if key in PLAN else changed)[key] = other
    if key == "shadows":   # they are trained beside unseen data
        usual["data"] = changed["data"] = {"kind": "digits", "limit": 300, "test": 0.2, "holdout": 0.4}
    if key == "scenarios":   # they stand in place of forget
        changed.pop("forget")
    if key == "family":
        usual = {**BASE, "output": str(tmp_path / "usual")}
    before, after = told(usual), told(changed)
    assert before != after
    if key == "strategy":   # how models are trained changes none of them, only what is said of it
        assert [one["subjects"] for one in json.loads(before)["scenarios"]] == [
            one["subjects"] for one in json.loads(after)["scenarios"]]


def test_the_output_is_where_the_request_says(tmp_path: Path) -> None:
    told({**BASE, "output": str(tmp_path / "elsewhere")})
    assert list((tmp_path / "elsewhere").glob("*/results.json"))
