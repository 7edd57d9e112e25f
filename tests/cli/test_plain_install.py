"""A plain install, without what draws pages and figures: nothing that was worked out is lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.errors import RequestError

CONTENT = {"family": "classification", "model": {"zoo": "mlp", "options": {"hidden": [8]}}, "recipe": {"epochs": 2},
           "data": {"kind": "digits", "test": 0.3, "holdout": 0.3}, "forget": {"fraction": 0.1}, "accept": ["score"],
           "audit": {"depth": "quick", "references": 2, "shadows": 0, "audits": ["scores"]}}


@pytest.mark.parametrize("hidden", [["matplotlib"], ["jinja2", "matplotlib"]])
def test_run_and_audit_end_with_all_their_numbers(hidden: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for library in hidden:
        monkeypatch.setitem(sys.modules, library, None)
    paged = "jinja2" not in hidden
    Path("request.yaml").write_text(yaml.safe_dump(CONTENT))

    def lethe(*words: str) -> str:
        done = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert not paged or "figures" in done.stderr or "--json" in words
        return done.stdout

    run = Path("runs") / json.loads(lethe("run", "request.yaml", "--json"))["id"]
    assert (run / "models" / "finetune").is_dir() and (run / "report.html").exists() is paged
    told = lethe("audit", str(run))
    assert (run / "audit-standard.json").exists() and (run / "audit-standard.html").exists() is paged
    assert ("Page:" if paged else "Numbers:") in told
    if not paged:
        with pytest.raises(RequestError, match="jinja2, which is not installed, so no certificate was written"):
            CliRunner().invoke(app, ["certify", str(run), "--key", "key.pem"], catch_exceptions=False)
        assert not Path("key.pem").exists() and not Path("runs/certificates").exists()


def test_a_parquet_file_is_refused_before_work_where_pyarrow_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    content = {**CONTENT, "data": {"path": str(tmp_path / "a.parquet"), "label": "y", "holdout": 0.3}}
    (tmp_path / "request.yaml").write_text(yaml.safe_dump({**content, "output": str(tmp_path / "runs")}))
    with pytest.raises(RequestError, match=r"needs pyarrow, which is not installed.*\[data\]"):
        CliRunner().invoke(app, ["run", str(tmp_path / "request.yaml")], catch_exceptions=False)
    assert not (tmp_path / "runs" / "ledger.sqlite").exists()
