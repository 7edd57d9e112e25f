"""Triage: twins are named, wrong labels are hard, and what others say too is easy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import lethe
from lethe.cli.main import app
from lethe.core.passes import inputs
from lethe.core.split import Split
from lethe.errors import NeedsUnmet
from lethe.judge.triage import advice
from lethe.maths.kernels import joint_targets
from lethe.models.classification.task import Classification
from lethe.models.zoo import build
from lethe.models.zoo.mlp import MLP


def task(forget: Split, retain: Split) -> Classification:
    return Classification(MLP(forget.columns["x"][0].numel()), {"forget": forget, "retain": retain})


def digits(seed: int) -> tuple[Classification, set[str]]:
    """500 digits, 10 % with wrong labels: F = the wrong ones and as many right ones.  -> task, ids of the wrong ones"""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))[:500]
    x, y = x[order] / 16, y[order].copy()
    y[:50] = (y[:50] + rng.integers(1, 10, 50)) % 10
    columns = {"x": torch.tensor(x, dtype=torch.float32), "y": torch.tensor(y)}
    whole = Split(columns, "train", np.arange(500).astype(str))
    return task(whole.subset(np.arange(100), "forget"), whole.subset(np.arange(100, 500), "retain")), {str(i) for i in range(50)}


@pytest.mark.parametrize("seed", range(3))
def test_wrong_labels_are_hard(seed: int) -> None:
    made, wrong = digits(seed)
    found = lethe.triage(made)
    hard = {r["id"] for r in found["records"] if r["advice"] == "hard"}
    assert len(hard & wrong) >= 45 and len(hard - wrong) <= 15
    assert [r["joint"] for r in found["records"]] == sorted((r["joint"] for r in found["records"]), reverse=True)
    assert sum(found["counts"].values()) == 100 and found["compared"] == 400


def test_a_record_that_stands_in_the_retained_data_too_is_a_twin() -> None:
    made, _ = digits(0)
    double = made.retain.subset([7], "forget")
    forget = Split(double.columns, "forget", np.array(["again"]))
    found = lethe.triage(task(forget, made.retain))
    assert found["records"][0]["twin"] == str(made.retain.ids[7]) and found["counts"]["twin"] == 1
    other = Split({**double.columns, "y": (double.columns["y"] + 1) % 10}, "forget", np.array(["contradicted"]))
    assert lethe.triage(task(other, made.retain))["counts"]["twin"] == 0


def test_advice() -> None:
    assert [advice(*of) for of in ((0.95, True), (0.95, False), (0.7, False), (0.2, False))] == ["twin", "hard", "usual", "easy"]


def test_targets_of_both_sets_share_classes_and_units() -> None:
    assert joint_targets(np.array([1]), np.array([0, 2]))[0].tolist() == pytest.approx([-1 / 3, 2 / 3, -1 / 3])
    assert joint_targets(np.array([3.0]), np.array([0.0, 2.0]))[0].tolist() == [2.0]   # (3 − 1)/1


def test_without_retained_data_it_is_refused() -> None:
    made, _ = digits(0)
    with pytest.raises(NeedsUnmet, match="no retained data"):
        lethe.triage(Classification(MLP(), {"forget": made.forget}))


def test_texts_are_compared_by_features() -> None:
    def texts(n: int, seed: int, name: str) -> Split:
        words, rng = torch.arange(n) % 4, torch.Generator().manual_seed(seed)
        return Split({"x": 1 + 5 * words[:, None] + torch.randint(5, (n, 6), generator=rng), "y": words}, name)

    model = build("text_encoder", vocabulary=21, classes=4, width=16, layers=1, positions=6)
    made = Classification(model, {"forget": texts(8, 0, "forget"), "retain": texts(40, 1, "retain")})
    assert inputs(made, made.forget).shape == (8, 16) and len(lethe.triage(made)["records"]) == 8


def test_the_command_prints_table_and_json(tmp_path: Path) -> None:
    request = tmp_path / "request.yaml"
    request.write_text("family: classification\nmodel: {zoo: small_cnn}\ndata: {kind: digits, holdout: 0.9}\n"
                       f"recipe: {{epochs: 1}}\nforget: {{label: 3}}\noutput: {tmp_path / 'runs'}\n")
    shown = CliRunner().invoke(app, ["triage", str(request)])
    assert shown.exit_code == 0 and "records to forget" in shown.stdout and "hard" in shown.stdout
    found = json.loads(CliRunner().invoke(app, ["triage", str(request), "--json"]).stdout)
    assert found[""]["looked_at"] == len(found[""]["records"])
