"""`lethe check` for every method and audit of our own, as far as nothing is run; `lethe new` in a fresh copy of the house."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lethe.cli.scaffold import faults_of, own_tests
from lethe.core.catalogue import HOUSE, Entry, entries, find

OURS = [entry for kind in ("methods", "audits") for entry in entries(kind).values() if not entry.origin]


@pytest.mark.parametrize("entry", OURS, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_nothing_is_lacking(entry: Entry) -> None:
    assert faults_of(entry) == []


def test_a_missing_test_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = find("salun")
    monkeypatch.setattr("lethe.cli.scaffold.HOUSE", tmp_path / "lethe")
    assert faults_of(entry) == ["salun: no test file test_salun.py: a golden number and a limit belong there"]


def test_a_name_that_another_room_has_gets_a_test_file_of_its_own() -> None:
    assert own_tests("audits", "layers").name == "test_layers_audit.py"
    assert own_tests("methods", "salun").name == "test_salun.py"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "failing"), [("method", "test_limit"), ("audit", "test_controls")])
def test_a_new_one_in_a_fresh_clone_fails_on_purpose_alone(kind: str, failing: str, tmp_path: Path) -> None:
    for part in ("lethe", "tests"):
        shutil.copytree(HOUSE.parent / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HOUSE.parent / "pyproject.toml", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def lethe(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lethe", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    made = lethe("new", kind, "foo")
    assert made.returncode == 0, made.stderr
    checked = lethe("check", "foo")
    assert checked.returncode != 0 and f"{failing}" in checked.stdout
    lines = [line for line in checked.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    own = (f"FAILED tests/{kind}s/test_foo.py", "FAILED tests/wiring/test_by_hand.py")   # a step by hand is asked of every method
    assert lines and all(line.startswith(own) for line in lines), lines
