"""Who is forgotten stands in the private request alone, not in what a run shows; and no page is written unless it is wanted."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from lethe.work.execute import carry_out
from lethe.work.options import Options
from lethe.work.request import parse

NAMES = ("alice7@home", "bob_in_room_3")


@pytest.mark.parametrize("show", [False, True])
def test_forgotten_ids_are_withheld_from_page_results_and_ledger(tmp_path: Path, show: bool) -> None:
    draws = np.random.default_rng(0)
    ids = np.array([*NAMES, *(f"other{i}" for i in range(58))])
    np.savez(tmp_path / "d.npz", x=draws.standard_normal((60, 4)).astype("float32"), y=draws.integers(0, 2, 60), who=ids)
    request = parse({"family": "classification", "model": {"zoo": "mlp", "options": {"inputs": 4, "classes": 2}},
                     "data": {"path": str(tmp_path / "d.npz"), "ids": "who"}, "forget": {"ids": list(NAMES)},
                     "recipe": {"epochs": 1}, "method": "finetune", "watchdog": False,
                     "audit": {"references": 0, "shadows": 0, "audits": ["lood"]},
                     "output": str(tmp_path / "runs")})
    carry_out(request, Options(command=f"lethe run r.yaml forget.ids=[{','.join(NAMES)}]", page=not show, show_ids=show))
    folder = next((tmp_path / "runs").glob("*/results.json")).parent
    assert NAMES[0] in (folder / "request.yaml").read_text()
    assert stat.S_IMODE((folder / "request.yaml").stat().st_mode) == 0o600
    shown = {path.name for path in [*folder.iterdir(), tmp_path / "runs" / "ledger.sqlite"]
             if path.is_file() and path.name != "request.yaml" and any(name.encode() in path.read_bytes() for name in NAMES)}
    assert shown == ({"results.json"} if show else set())
    assert (folder / "report.html").exists() != show
