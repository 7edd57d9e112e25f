"""A request is not a program: code and pickles need a flag on the command line, also in a dry run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from forked import lethe

HEAD = "family: classification\ndata: {kind: digits}\nforget: {label: 3}\nrecipe: {epochs: 1}\n"
NET = "import torch\ndef make():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "net.py").write_text(NET)
    (tmp_path / "elsewhere.py").write_text(NET)
    return tmp_path / "work"


def test_code_runs_only_beside_the_request_or_when_it_is_allowed(place: Path) -> None:
    (place / "shell.yaml").write_text(
        HEAD + "model: {code: 'subprocess:getoutput', options: {cmd: 'touch owned'}}\n")
    said = lethe(place, "run", "shell.yaml", "--dry-run", status=2).said
    assert "CodeRefused" in said and "--allow-code" in said and not (place / "owned").exists()

    (place / "beside.yaml").write_text(HEAD + "model: {code: 'net.py:make'}\n")
    lethe(place, "run", "beside.yaml", "--dry-run", status=0)
    (place / "out.yaml").write_text(HEAD + "model: {code: '../elsewhere.py:make'}\n")
    assert "is not beside the request" in lethe(place, "run", "out.yaml", "--dry-run", status=2).said
    lethe(place, "run", "out.yaml", "--dry-run", "--allow-code", status=0)


def test_a_request_cannot_allow_pickles_by_itself(place: Path) -> None:
    np.savez(place / "data.npz", x=np.array([{}, {}], dtype=object), y=np.array([0, 1]))
    (place / "r.yaml").write_text("family: classification\nmodel: {zoo: mlp}\nforget: {label: 1}\nrecipe: {epochs: 1}\n"
                                  "data: {path: data.npz, allow_pickle: true}\n")
    said = lethe(place, "run", "r.yaml", "--dry-run", status=2).said
    assert "PickleRefused" in said and "pass --allow-pickle" in said
    assert "PickleRefused" not in lethe(place, "run", "r.yaml", "--dry-run", "--allow-pickle").said
