"""The leaderboard: the controls and the floor stand in it, seeds are averaged by the textbook formula; the search is drawn."""

from __future__ import annotations

import copy
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from example_results import results

from lethe import report
from lethe.report.figure import drawing
from lethe.report.leaderboard import FLOOR, Spread
from lethe.report.report import Report
from lethe.report.search import searches
from lethe.report.view import cases
from lethe.results.schema import read


def three_seeds() -> dict[str, Any]:
    """The first scenario with one method three times; its first metric has the values 0.1, 0.2, 0.6."""
    data = results()
    data["scenarios"] = data["scenarios"][:1]
    case = data["scenarios"][0]
    method = next(s for s in case["subjects"] if s["role"] == "method" and s["evidence"])
    rows = []
    for seed, value in enumerate((0.1, 0.2, 0.6)):
        row = copy.deepcopy(method)
        row.update(name=f"x seed {seed}", label="x", seed=seed)
        row["evidence"][0]["value"], row["cost"]["seconds"] = value, 1.0 + seed
        rows.append(row)
    case["subjects"] = [s for s in case["subjects"] if s["role"] != "method"] + rows
    return data


def test_the_order_is_controls_floor_methods_and_seeds_are_averaged() -> None:
    made = report.standings(read(three_seeds()))
    assert [entry.role for entry in made] == ["original", "retrained", "floor", "method"]
    entry = made[-1]
    name = next(iter(entry.metrics))
    assert entry.model == "x" and entry.seeds == 3
    assert entry.metrics[name].mean == pytest.approx(0.3)   # (0.1 + 0.2 + 0.6)/3
    assert entry.metrics[name].sd == pytest.approx(0.07**0.5)   # √((0.04 + 0.01 + 0.09)/2)
    assert entry.seconds == Spread(2.0, 1.0, 3)
    floor = made[2]
    yardstick = next(item["yardstick"] for item in three_seeds()["scenarios"][0]["subjects"][0]["evidence"] if item["yardstick"])
    assert floor.model == FLOOR and floor.metrics[name] == Spread(yardstick["mean"], yardstick["sd"], yardstick["n"])
    assert made[0].metrics[name].sd is None, "a single run has no spread"


def test_files_and_page(tmp_path: Path) -> None:
    Report(read(three_seeds())).save_leaderboard(tmp_path)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "leaderboard.csv").read_text())))
    held = json.loads((tmp_path / "leaderboard.json").read_text())
    assert [line["model"] for line in lines] == [entry["model"] for entry in held] and FLOOR in lines[2]["model"]
    name = next(iter(held[-1]["metrics"]))
    assert float(lines[-1][f"{name}_mean"]) == pytest.approx(held[-1]["metrics"][name]["mean"])
    page = report.render(read(three_seeds()))
    assert FLOOR in page and "0.300 ± 0.265 (3)" in page


def test_the_search_is_drawn_and_said() -> None:
    data = three_seeds()
    trial = {"number": 0, "round": 0, "method": "nothing", "settings": {}, "distance": 0.9, "forgetting": 0.9, "utility": 0.0,
             "seconds": 0.0, "error": "", "chosen": False}
    better = {**trial, "number": 1, "method": "scrub", "distance": 0.2, "chosen": True}
    failed = {**trial, "number": 2, "method": "ssd", "distance": None, "error": "Diverged"}
    data["scenarios"][0]["subjects"][-3]["search"] = [trial, better, failed]
    with drawing():
        (made,) = searches(cases(read(data))[0])
    assert "scrub of 2 candidates comes to 0.200, the untouched model to 0.900" in made.title
    assert "1 candidates failed" in made.caption
    assert len(made.rows) == 3
    assert "comes to 0.200" in report.render(read(data))
