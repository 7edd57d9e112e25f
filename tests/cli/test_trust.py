"""A request is not a program: code and pickles need a flag on the command line, also in a dry run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HEAD = "family: classification\ndata: {kind: digits}\nforget: {label: 3}\nrecipe: {epochs: 1}\n"
NET = "import torch\ndef make():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"


def lethe(place: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-m", "lethe", *words], cwd=place, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "net.py").write_text(NET)
    (tmp_path / "elsewhere.py").write_text(NET)
    return tmp_path / "work"


def test_code_runs_only_beside_the_request_or_when_it_is_allowed(place: Path) -> None:
    (place / "shell.yaml").write_text(
        HEAD + "model: {code: 'subprocess:getoutput', options: {cmd: 'touch owned'}}\n")
    status, said = lethe(place, "run", "shell.yaml", "--dry-run")
    assert status == 2 and "CodeRefused" in said and "--allow-code" in said and not (place / "owned").exists()

    (place / "beside.yaml").write_text(HEAD + "model: {code: 'net.py:make'}\n")
    assert lethe(place, "run", "beside.yaml", "--dry-run")[0] == 0
    (place / "out.yaml").write_text(HEAD + "model: {code: '../elsewhere.py:make'}\n")
    status, said = lethe(place, "run", "out.yaml", "--dry-run")
    assert status == 2 and "is not beside the request" in said
    assert lethe(place, "run", "out.yaml", "--dry-run", "--allow-code")[0] == 0


def test_a_request_cannot_allow_pickles_by_itself(place: Path) -> None:
    np.savez(place / "data.npz", x=np.array([{}, {}], dtype=object), y=np.array([0, 1]))
    (place / "r.yaml").write_text("family: classification\nmodel: {zoo: mlp}\nforget: {label: 1}\nrecipe: {epochs: 1}\n"
                                  "data: {path: data.npz, allow_pickle: true}\n")
    status, said = lethe(place, "run", "r.yaml", "--dry-run")
    assert status == 2 and "PickleRefused" in said and "pass --allow-pickle" in said
    assert "PickleRefused" not in lethe(place, "run", "r.yaml", "--dry-run", "--allow-pickle")[1]
