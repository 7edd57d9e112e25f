"""A policy: chosen on some drawn requests, validated on others; later requests run by it, and others are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_world import build
from tiny import classification

from lethe.errors import RequestError
from lethe.ledger import Ledger
from lethe.maths.statistics import clopper_pearson
from lethe.results.policy import load
from lethe.work.calibrate import calibrate
from lethe.work.draws import drawn, sort_of
from lethe.work.execute import carry_out
from lethe.work.options import Options
from lethe.work.request import Request, read

CLASS: dict[str, Any] = {
    "model": {"zoo": "mlp", "options": {"inputs": 4, "hidden": [16], "classes": 3}}, "forget": {"label": 2},
    "data": {"path": "people.npz", "holdout": 0.25, "test": "unseen.npz"},
    "recipe": {"epochs": 12, "lr": 0.03, "batch_size": 16},
    "audit": {"depth": "quick", "references": 3, "shadows": 0, "audits": ["scores"], "max_loss": 0.2, "strategy": "serial"}}


def request(folder: Path, *asked: str, **changes: Any) -> Request:
    return read(build(folder, output=str(folder / "runs"), **{**CLASS, **changes}), asked)


def test_a_policy_is_calibrated_and_later_requests_run_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five draws: three choose, two validate. It is in the ledger; another request of its kind runs by it without
    retraining, one of another kind is refused by name, and so is an edited file."""
    monkeypatch.setattr("lethe.work.ladder.alone", lambda task: ["renew", "retrain"])
    file = tmp_path / "policy.json"
    found = calibrate(request(tmp_path, "until=forgotten"), Options(), 5, file)
    policy = found.policy
    assert policy is not None and load(file) == policy
    assert (policy.method, policy.requests + policy.blind, found.tried[0].requests) == ("renew", 2, 3)
    assert (policy.low, policy.high) == clopper_pearson(policy.passed, policy.requests) and 0 < (policy.cost or 0) <= 0.3
    assert (policy.sort, policy.smallest <= 24 <= policy.largest) == ("class", True)
    entry = Ledger(tmp_path / "runs" / "ledger.sqlite").run(f"policy-{policy.id}")
    assert entry["status"] == "calibrated" and entry["config"]["id"] == policy.id

    report = carry_out(request(tmp_path, f"policy={file}", "audit.references=0", forget={"label": 1}), Options(page=False))
    assert report is not None
    case = report.results.scenarios[0]
    assert case.policy == policy and case.references.count == 0 and [row.name for row in case.subjects] == ["original", "renew"]
    assert f"Run by policy {policy.id}: renew validated on {policy.requests} requests like this" in report.table()
    for changes, words in (({"forget": {"count": 12}}, "whole classes, and this request names single records"),
                           ({"recipe": {**CLASS["recipe"], "epochs": 21}}, "its recipe changed")):
        with pytest.raises(RequestError, match=words):
            carry_out(request(tmp_path, f"policy={file}", **changes), Options())
    file.write_text(json.dumps({**json.loads(file.read_text()), "passed": 99}))
    with pytest.raises(RequestError, match="it was edited"):
        carry_out(request(tmp_path, f"policy={file}"), Options())


def test_draws_are_like_the_request() -> None:
    """Every class once before any comes again, with another seed; records in sizes between half of and twice the request's."""
    task = classification()
    train = task.retain
    labels = train.columns["y"]
    count = len(torch.unique(labels))
    found = drawn(train, {"label": 1}, 10, 2 * count, seed=0)
    assert all(len(torch.unique(labels[torch.from_numpy(one.mask)])) == 1 for one in found)
    assert len({one.name.removesuffix(" (2)") for one in found}) == count and len({one.seed for one in found}) == 2 * count
    sizes = [one.size for one in drawn(train, {"fraction": 0.1}, 8, 60, seed=0)]
    assert min(sizes) >= 4 and max(sizes) <= 16 and len(set(sizes)) > 6
    assert not np.array_equal(*(one.mask for one in drawn(train, {"count": 8}, 8, 2, seed=0)))
    assert sort_of({"query": "speaker == 2"}) == ("group", "speaker") and sort_of({"ids": ["a"]}) == ("records", "")
    with pytest.raises(RequestError, match="no kind of request"):
        sort_of({"query": "age > 75"})
