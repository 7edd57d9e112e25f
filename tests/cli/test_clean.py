"""`lethe clean` lists what caches hold, and deletes only when it is told to, and only there."""

from __future__ import annotations

import os
import time
from pathlib import Path

from typer.testing import CliRunner

from lethe.cli.main import app


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
