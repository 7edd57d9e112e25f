"""`lethe clean` lists what caches hold, and deletes only when it is told to, and only there."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.errors import RequestError
from lethe.work.lock import locked


def test_clean_lists_first_and_deletes_old_models_of_the_cache_alone(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in (".cache/original/old.safetensors", ".cache/original/new.safetensors", "abc/results.json"):
        (runs / name).parent.mkdir(parents=True, exist_ok=True)
        (runs / name).write_bytes(b"x" * 10)
    (runs / ".cache" / "link").symlink_to(runs / "abc" / "results.json")
    old = runs / ".cache/original/old.safetensors"
    os.utime(old, (time.time() - 40 * 86400,) * 2)
    words = ["clean", "--output", str(runs), "--older-than", "30"]
    listed = CliRunner().invoke(app, words)
    assert "40.0 days" in listed.stdout and "nothing was deleted" in listed.stdout and old.exists()
    CliRunner().invoke(app, [*words, "--yes"], catch_exceptions=False)
    assert not old.exists() and (runs / ".cache/original/new.safetensors").exists() and (runs / "abc/results.json").exists()


def test_nothing_is_deleted_under_a_run_at_work(tmp_path: Path) -> None:
    model = tmp_path / ".cache/original/a.safetensors"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"x")
    with locked(tmp_path / ".abc.lock"), pytest.raises(RequestError, match=f"process {os.getpid()} on .* holds"):
        CliRunner().invoke(app, ["clean", "--output", str(tmp_path), "--yes"], catch_exceptions=False)
    assert model.exists()
    (tmp_path / ".abc.lock").write_text('{"host": "elsewhere", "pid": 1}')   # left by a killed process: nobody holds it
    CliRunner().invoke(app, ["clean", "--output", str(tmp_path), "--yes"], catch_exceptions=False)
    assert not model.exists()


def test_clean_of_one_request_leaves_the_models_of_others(tmp_path: Path) -> None:
    names = {}
    for epochs in (1, 2):
        request = tmp_path / f"{epochs}.yaml"
        request.write_text(yaml.safe_dump({
            "family": "classification", "model": {"zoo": "mlp", "options": {"hidden": [4]}}, "recipe": {"epochs": epochs},
            "data": {"kind": "digits", "test": 0.8}, "forget": {"index": [0]}, "output": str(tmp_path / "runs"),
            "audit": {"depth": "quick", "references": 2, "shadows": 0, "audits": ["scores"]}}))
        CliRunner().invoke(app, ["pool", str(request), "-q", "accept=[score]"], catch_exceptions=False)
        told = CliRunner().invoke(app, ["clean", str(request), "--json"], catch_exceptions=False)
        names[epochs] = {one["path"] for one in json.loads(told.stdout)["files"]}
    assert len(names[1]) >= 3 and not names[1] & names[2] and any("/original/" in name for name in names[1])
    CliRunner().invoke(app, ["clean", str(tmp_path / "1.yaml"), "--yes"], catch_exceptions=False)
    assert not any(Path(name).exists() for name in names[1]) and all(Path(name).exists() for name in names[2])
