"""Presets on real data: each can be planned, and runs when it is cut down."""

from __future__ import annotations

from pathlib import Path

import pytest

from lethe.work.execute import Options, carry_out, dry_run
from lethe.work.request import read

FOLDER = Path(__file__).resolve().parents[1] / "presets"
REAL = ["adult", "ag_news_topic", "bike_sharing", "etth1_forecast", "faces_identity", "mislabels", "random_share", "sst2_text",
        "subclass", "worst_case"]
SMALL = ["seeds=1", "recipe.epochs=1", "audit.references=0", "audit.audits=[scores]", "method=[{name: finetune, epochs: 0.1}]"]


@pytest.fixture(scope="module")
def options(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Options:
    return Options(data_root=data_root, cache=tmp_path_factory.mktemp("cache"))


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_preset_can_be_planned(name: str, options: Options) -> None:
    for case in dry_run(read(FOLDER / f"{name}.yaml"), options)["scenarios"].values():
        assert case["sizes"]["forget"] and case["sizes"]["retain"] and case["sizes"]["holdout"]


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_preset_runs_when_it_is_cut_down(name: str, options: Options, tmp_path: Path) -> None:
    report = carry_out(read(FOLDER / f"{name}.yaml", [*SMALL, f"output={tmp_path}"]), options)
    assert report is not None
    for case in report.results.scenarios:
        assert [row.error for row in case.subjects] == [None, None]
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir() and path.name != ".cache"]
    assert {"report.html", "results.csv", "leaderboard.csv", "leaderboard.json"} <= {path.name for path in folder.iterdir()}
