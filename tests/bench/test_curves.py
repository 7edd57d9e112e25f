"""Curves of a suite of doses: read off between two doses, begun at the original, drawn with what every mark says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lethe.bench import curves
from lethe.bench.suite import read, suites
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


@pytest.mark.parametrize("name", [name for name in suites() if read(name).across])
def test_the_page_and_its_figure_are_current(name: str) -> None:
    page = Path("docs") / f"{name}.md"
    text = curves.page_text(name, page)
    assert (ROOT / page).read_text() == text, f"run: python -m lethe bench {name} --page {page}"
    if not read(name).pictures:
        assert f'aria-label="{curves.finding(name, curves.curves(name))}"' in (ROOT / page).with_suffix(".svg").read_text()
    linked = re.findall(r"]\((\.\./[^)]*)\)", text)
    assert len(linked) == sum(line.startswith("![") for line in text.splitlines()) or not read(name).pictures
    assert all((ROOT / "docs" / path).is_file() for path in linked)


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


GROUPED = """# Two requests. 1 min.
keep: [unlearning_accuracy, spared, recovered]
across: unlearning_accuracy
title: What stays
levels: [0.8]
tables: {what stays: [spared], what comes back: [recovered]}
lower: [recovered]
pictures: true
requests:
"""
REQUEST = """  '{name}':
    family: diffusion
    model: {{tiny: true}}
    data: {{concept: disk, prompts: [a red disk], keep: [a red square]}}
    method: [{methods}]
"""
# unlearning accuracy, what was spared and what was recovered; recovered was looked at with the larger dose alone
SHAPE = {"shape: little": {"esd": (0.7, 0.8, None)}, "shape: more": {"esd": (0.9, 0.6, 0.5)},
         "shape: controls": {"retrain": (0.75, 0.9, 0.1)}}


@pytest.fixture
def grouped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "grouped.yaml").write_text(GROUPED + "".join(
        REQUEST.format(name=problem, methods=", ".join(some)) for problem, some in SHAPE.items())
        + REQUEST.format(name="colour: little", methods="esd"))
    monkeypatch.setattr("lethe.bench.suite.HERE", tmp_path)
    for method in ("esd", "retrain"):
        numbers = [Number(problem=f"grouped: {problem}", metric=metric, mean=mean, sd=0.1, seeds=3, untouched=untouched,
                          command="", commit="")
                   for problem, some in SHAPE.items() if method in some for metric, mean, untouched in zip(
                       ("unlearning_accuracy", "spared", "recovered"), some[method], (0.1, 0.9, 0.9), strict=True)
                   if mean is not None]
        measured.write(Measured(schema=1, name=method, numbers=tuple(numbers)), tmp_path)
    return tmp_path


def test_doses_come_in_groups_and_what_has_one_dose_is_a_control(grouped: Path) -> None:
    assert list(read("grouped").groups()) == ["shape", "colour"]
    esd, retrain = curves.curves("grouped", grouped, "shape")
    assert curves.curves("grouped", grouped, "colour") == []   # not measured yet
    assert retrain.control and retrain.at("unlearning_accuracy", 0.5, "spared") is None
    assert esd.at("unlearning_accuracy", 0.5, "recovered") == pytest.approx((0.7, 0.05))   # between original and larger dose
    (page,) = curves.curves_page("grouped", grouped / "grouped.md", grouped)
    text = page.read_text()
    assert "## Shape" in text and "## Colour" not in text and "../measured/pictures/grouped-shape.png" in text
    assert "| 0.10 | untouched | 0.90 |\n| 0.75 | retrain | 0.90 ± 0.10 |\n| 0.8 | `esd` | 0.70 ± 0.10 |" in text
    assert "recovered (lower is better)" in text and "- recovered: share of pictures" in text
