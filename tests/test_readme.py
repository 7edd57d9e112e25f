"""The README's table is that of a run: it equals measured/readme/demo.json, which `tools/readme.py` writes with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import answers  # noqa: E402
import until  # noqa: E402
from readme import BLOCK, NUMBERS, steady  # noqa: E402

from lethe.core.files import csv_text  # noqa: E402


def test_the_table_of_the_readme_is_that_of_a_run() -> None:
    kept = json.loads(NUMBERS.read_text("utf-8"))
    found = BLOCK.search((ROOT / "README.md").read_text("utf-8"))
    assert found is not None and steady(found[2]) == kept["table"] and kept["table"][1].startswith("Recommended: ")
    assert kept["commit"] and kept["command"] == "lethe compare presets/demo.yaml"


def test_what_the_clock_decides_is_left_out() -> None:
    text = "Recommended: a (useful: +0.1 points; 0.28 × a retraining)\na  ✓ yes  1.20 s (0.28×)\n──────\nb  ✗ no  –"
    assert steady(text) == ["Recommended: a (useful: +0.1 points)", "a ✓ yes", "b ✗ no"]


def test_the_figure_of_the_readme_is_that_of_the_measured_numbers() -> None:
    assert "](docs/answers.svg)" in (ROOT / "README.md").read_text("utf-8").split("## ")[0]
    lines = answers.rows("strangers")
    assert answers.CSV.read_text("utf-8") == csv_text(lines), "run: python tools/answers.py"
    assert answers.headline(lines, answers.retrained("strangers")).replace(" ", "") in "".join(
        answers.SVG.read_text("utf-8").split())


def test_the_page_of_ladders_is_that_of_the_measured_numbers() -> None:
    kept = json.loads(until.NUMBERS.read_text("utf-8"))
    assert all(row["commit"] for row in kept["rows"] if "refused" not in row)
    assert until.PAGE.read_text("utf-8") == until.page(kept["rows"]), "run: python tools/until.py"
    beyond = [row for row in kept["rows"] if row.get("cost", 0.0) > row.get("within", 0.0) + 1e-9]
    assert not beyond, f"more was spent than was allowed: {beyond}"
