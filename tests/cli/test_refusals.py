"""What cannot be done is refused before the original is trained, by `run` and `--dry-run` alike; doubtful requests are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lethe.core.events import spoken
from lethe.errors import LetheError, ModelError, NeedsUnmet, NotFinite
from lethe.report.answer import lopsided
from lethe.work import execute as runner
from lethe.work.execute import Options
from lethe.work.request import parse

DIGITS = {"kind": "digits", "test": 0.8}


def content(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"family": "classification", "model": {"zoo": "mlp", "options": {"hidden": [8]}}, "data": DIGITS,
            "recipe": {"epochs": 1}, "forget": {"label": 3}, "method": "finetune", "output": str(folder / "runs"),
            "audit": {"depth": "quick", "references": 0, "shadows": 0, "audits": ["scores"]}, **changes}


def arrays(folder: Path, **columns: np.ndarray) -> dict[str, Any]:
    np.savez(folder / "data.npz", **{"x": np.zeros((40, 64), dtype=np.float32), "y": np.arange(40) % 10, **columns})
    return {"kind": "npz", "path": str(folder / "data.npz")}


def broken(n: int) -> np.ndarray:
    values = np.linspace(0, 1, n).astype(np.float32)
    values[5] = np.nan
    return values


def no_head(folder: Path) -> dict[str, Any]:
    (folder / "net.py").write_text("import torch\n\ndef make():\n    return torch.nn.Sequential(torch.nn.Unflatten(1, (64, 1)), "
                                   "torch.nn.Conv1d(64, 10, 1), torch.nn.Flatten())\n")
    return {"code": f"{folder / 'net.py'}:make"}


CASES: dict[str, tuple[Any, type[LetheError], str]] = {
    "NaN in inputs": (lambda p: {"data": arrays(p, x=broken(40 * 64).reshape(40, 64))}, NotFinite, "'x' of .* id train:0"),
    "NaN in targets": (lambda p: {"family": "regression", "data": arrays(p, y=broken(40)), "forget": {"index": [0]},
                                  "model": {"zoo": "mlp", "options": {"classes": 1}}}, NotFinite, "'y' of .* id train:5"),
    "no head": (lambda p: {"model": no_head(p), "data": arrays(p)}, ModelError, r"no linear layer .* model\.head"),
    "a method without its data": (lambda p: {"method": ["finetune", "ebyd"]}, NeedsUnmet,
                                  r"ebyd: the task has no holdout.*Methods that can run on this task: .*\bretrain\b"),
}


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry-run"])
@pytest.mark.parametrize("name", CASES)
def test_refused_before_anything_is_trained(name: str, dry: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*_: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr("lethe.work.open.trained", trained)
    change, kind, words = CASES[name]
    request = parse(content(tmp_path, **change(tmp_path)))
    with pytest.raises(kind, match=words):
        (runner.dry_run if dry else runner.carry_out)(request, Options())
    assert not list(tmp_path.rglob("*.safetensors"))


def test_more_to_forget_than_to_keep_is_said_at_once_in_the_plan_and_on_the_page(tmp_path: Path) -> None:
    said: list[str] = []
    request = parse(content(tmp_path, forget={"fraction": 0.7}))
    options = Options(listener=spoken(said.append))
    report = runner.carry_out(request, options)
    assert report is not None and report.verdict("finetune") == "no yardstick"   # the work was done
    assert said[0].startswith("warning: More is to be forgotten (251 examples) than to be kept (108)")
    page = (tmp_path / "runs" / report.results.id / "report.html").read_text()
    assert "More is to be forgotten (251" in report.table() and "More is to be forgotten (251" in page
    assert "More is" in runner.dry_run(request, options)["scenarios"]["request"]["warning"]
    assert not lopsided({"forget": 5, "retain": 5}) and not lopsided({"forget": 5})
