"""`lethe protect`: what it writes, measures and refuses; what it writes can be read and trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lethe.data.load import load
from lethe.errors import DataError, NeedsUnmet, OutOfRange, OutputExists
from lethe.work.execute import Options
from lethe.work.protect import Protection, protect
from lethe.work.request import Request, parse

RECIPE = {"epochs": 3, "lr": 2e-3, "batch_size": 64}


def request(tmp_path: Path, **changes: object) -> Request:
    return parse({"family": "classification", "model": {"zoo": "small_cnn"}, "recipe": RECIPE, "output": str(tmp_path / "runs"),
                  "data": {"kind": "digits", "limit": 300, "test": 0.3}, **changes})


def test_writes_images_within_the_bound_and_says_what_is_learned_from_them(tmp_path: Path) -> None:
    asked = request(tmp_path)
    said = protect(asked, tmp_path / "safe", Options(), Protection(bound=0.2, clusters=4, steps=5))
    assert json.loads((tmp_path / "safe" / "manifest.json").read_text()) == said
    assert set(said["accuracy_of_a_model_trained_on"]) == {"clean", "uniform noise", "protected"} and sum(said["clusters"]) == 300
    written, clean = load(str(tmp_path / "safe" / "images.npz"))["train"], load(asked.data)["train"]
    assert torch.equal(written.columns["y"], clean.columns["y"]) and written.ids.tolist() == clean.ids.tolist()
    change = (written.columns["x"].float() / 255 - clean.columns["x"]).abs()
    assert 0.05 < change.max() <= 0.2 + 1 / 255   # five steps of at most 0.022
    with pytest.raises(OutputExists, match="nothing was started"):
        protect(asked, tmp_path / "safe", Options(), Protection())


def test_refusals(tmp_path: Path) -> None:
    here, quiet = tmp_path / "none", Options()
    with pytest.raises(OutOfRange, match="--bound 16"):
        protect(request(tmp_path), here, quiet, Protection(bound=16))
    with pytest.raises(OutOfRange, match="--clusters 999 exceeds the 300 images"):
        protect(request(tmp_path), here, quiet, Protection(clusters=999))
    with pytest.raises(NeedsUnmet, match="Set data"):
        protect(request(tmp_path, data={"kind": "digits"}), here, quiet, Protection())
    table = request(tmp_path, model={"zoo": "mlp", "options": {"inputs": 30, "classes": 2}},
                    data={"kind": "bundled", "name": "breast_cancer", "test": 0.3})
    with pytest.raises(DataError, match=r"images are \[n, C, H, W\]"):
        protect(table, here, quiet, Protection())
    assert not here.exists()
