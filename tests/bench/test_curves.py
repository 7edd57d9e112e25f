"""Curves of a suite of doses: read off between two doses, begun at the original, drawn with what every mark says."""

from __future__ import annotations

from pathlib import Path

import pytest

from lethe.bench import curves
from lethe.bench.suite import read
from lethe.results import measured
from lethe.results.measured import Measured, Number

ROOT = Path(__file__).resolve().parents[2]
# unlearning accuracy and what was spared, by dose; the original stands at .1 and .9
FOUND = {"mim_mu": [(0.5, 0.9), (0.8, 0.9), (0.9, 0.9)], "esd": [(0.7, 0.8), (0.9, 0.6), (0.95, 0.4)]}


def place(folder: Path) -> Path:
    for name, doses in FOUND.items():
        numbers = [Number(problem=f"erasing: {dose}", metric=metric, mean=mean, sd=0.1, seeds=3, untouched=untouched, command="",
                          commit="") for dose, pair in zip(read("erasing").requests, doses, strict=True)
                   for metric, mean, untouched in zip(("unlearning_accuracy", "spared"), pair, (0.1, 0.9), strict=True)]
        measured.write(Measured(schema=1, name=name, numbers=tuple(numbers)), folder)
    return folder


def test_the_page_and_its_figure_are_current() -> None:
    found, page = curves.curves("erasing"), Path("docs") / "erasing.md"
    remedy = f"run: python -m lethe bench erasing --page {page}"
    assert (ROOT / page).read_text() == curves.page_text("erasing", page, found), remedy
    assert f'aria-label="{curves.finding("erasing", found)}"' in (ROOT / page).with_suffix(".svg").read_text()


def test_methods_are_compared_where_their_curves_pass_the_same_value(tmp_path: Path) -> None:
    mim, esd = curves.curves("erasing", place(tmp_path))
    assert (mim.method, esd.method, esd.seeds) == ("mim_mu", "esd", 3)
    assert esd.points[0].mean == {"unlearning_accuracy": 0.1, "spared": 0.9}     # dose 0 is the original
    assert esd.at("unlearning_accuracy", 0.8, "spared") == pytest.approx((0.7, 0.1))   # half of the way from .8 to .6
    assert esd.at("unlearning_accuracy", 0.4, "spared") == pytest.approx((0.85, 0.05))
    assert esd.at("unlearning_accuracy", 0.96, "spared") is None
    assert curves.finding("erasing", [esd, mim]) == "Spared at unlearning accuracy 0.90: mim_mu 0.90, esd 0.60"


def test_the_page_and_its_figure_show_every_method(tmp_path: Path) -> None:
    page, figure = curves.curves_page("erasing", tmp_path / "erasing.md", place(tmp_path))
    text, drawn = page.read_text(), figure.read_text()
    assert "| 0.9 | `esd` | 0.60 ± 0.10 |" in text and "| 0.95 | `mim_mu` | – |" in text and f"]({figure.name})" in text
    assert "| untouched | – | 0.10 | 0.90 |" in text
    assert all(name in drawn for name in ("mim_mu", "esd", "original", "unlearning accuracy (higher is better)"))
