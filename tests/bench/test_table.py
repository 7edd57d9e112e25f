"""The page of a table: one row a method with its controls, and claims that follow from the numbers, not from a hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from lethe.bench import suite as suites
from lethe.bench.table import rows, rows_page, table_page, verdict
from lethe.cli.bench import written_page
from lethe.errors import RequestError
from lethe.results import measured
from lethe.results.measured import Measured, Number, Reason

ROOT = Path(__file__).resolve().parents[2]
SUITE = """# Three methods. 1 min.
title: What they do
keep: [mu_retain, forget_quality_log10, extraction_strength_forget]
claims:
  - {says: they keep more, problem: people, metric: mu_retain, methods: [npo, simnpo, rmu], than: gradient_ascent}
requests: {people: {family: lm, model: {tiny: true}, data: {train: x}, method: [npo, rmu]}}
"""
FOUND = {"npo": (0.6, -1.0, 0.1), "simnpo": (0.3, -3.0, 0.2), "gradient_ascent": (0.2, -9.0, 0.0)}   # untouched .65, −3, 1


def number(metric: str, mean: float | None, sd: float | None = 0.1, untouched: float = 0.65) -> Number:
    return Number(problem="short: people", metric=metric, mean=mean, sd=sd, seeds=3, untouched=untouched, retrained=0.5,
                  command="", commit="")


@pytest.mark.parametrize(("mine", "lower", "told"), [
    ((3.0, 1.0), False, "yes"), ((2.5, 1.0), False, "cannot be told"), ((-1.0, 1.0), False, "no"), ((-1.0, 1.0), True, "yes"),
    ((None, None), False, "–"), ((3.0, None), False, "cannot be told")])
def test_a_claim_holds_where_the_difference_is_beyond_two_errors(mine: tuple[float, float], lower: bool, told: str) -> None:
    assert verdict(number("mu_retain", *mine), number("mu_retain", 1.0, 1.0), lower) == told   # 2·√(1/3 + 1/3) = 1.63


def test_a_page_has_a_row_a_method_its_controls_and_what_holds_of_every_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                             ) -> None:
    (tmp_path / "short.yaml").write_text(SUITE)
    monkeypatch.setattr(suites, "HERE", tmp_path)
    for name, means in FOUND.items():
        rows = [number(metric, mean, untouched=first) for metric, mean, first in
                zip(suites.read("short").keep, means, (0.65, -3.0, 1.0), strict=True)]
        ended = [Reason(problem="short: people", kind="failed", seeds=(1,), text="it broke")] if name == "simnpo" else []
        measured.write(Measured(schema=1, name=name, numbers=tuple(rows), reasons=tuple(ended)), tmp_path)
    page = table_page("short", Path("docs") / "short.md", tmp_path)
    assert page.startswith("# What they do\n") and "Three methods." in page
    assert '"people": of 3 methods yes: 1, cannot be told: 1, –: 1.' in page and "| `npo` | 0.60 ± 0.10 | yes |" in page
    assert "| untouched | | 0.65 | −3.00 | 1.00 |" in page and "| retrained | | 0.50 | 0.50 | 0.50 |" in page
    assert "| **`npo`** | ascent | 0.60 ± 0.10 | −1.00 ± 0.10 | 0.10 ± 0.10 |" in page   # p = 0.1, and 92 % of the utility
    assert "| `simnpo` † | ascent |" in page and "Failed (runs): `simnpo` (1). For instance simnpo: it broke" in page
    assert "\nNot measured: `rmu`.\n" in page
    assert "MU retain ↑" in page and "extraction strength forget ≈" in page


def test_a_course_stands_dose_by_dose_in_place_of_a_table_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "short.yaml").write_text(SUITE.replace("requests: {people:", "courses: [mu_retain]\nrequests:\n"
        "  \"at once: 1\": {family: lm, model: {tiny: true}, data: {train: x}, method: npo}\n"
        "  \"at once: 2\": {family: lm, model: {tiny: true}, data: {train: x}, method: npo}\n"
        "  \"in turn: 2\": {family: lm, model: {tiny: true}, data: {train: x}, method: npo}\n  people:")[:-2] + "\n")
    monkeypatch.setattr(suites, "HERE", tmp_path)
    assert "request after request" not in table_page("short", Path("docs") / "short.md", tmp_path)
    rows = [number("mu_retain", mean).model_copy(update={"problem": f"short: {problem}"})
            for problem, mean in (("at once: 1", 0.6), ("at once: 2", 0.52), ("in turn: 2", 0.13))]
    measured.write(Measured(schema=1, name="npo", numbers=tuple(rows)), tmp_path)
    page = table_page("short", Path("docs") / "short.md", tmp_path)
    assert "## MU retain, request after request\n\n| how | method | 1 | 2 | left of the original's |" in page
    assert "| – | untouched | 0.65 | 0.65 | |\n| at once | `npo` | 0.60 ± 0.10 | 0.52 ± 0.10 | 80 % |" in page
    assert "| in turn | `npo` | – | 0.13 ± 0.10 | 20 % |" in page
    assert "## At once" not in page and "## In turn" not in page
    written = written_page("short", tmp_path / "short.md", tmp_path)["written"]
    drawn = (tmp_path / "short.svg").read_text()
    assert len(written) == 2 and "](short.svg)" in (tmp_path / "short.md").read_text() and 'aria-label="What they do"' in drawn
    measured.write(Measured(schema=1, name="npo", numbers=tuple(rows[:2])), tmp_path)
    written_page("short", tmp_path / "short.md", tmp_path)
    assert (tmp_path / "short.svg").read_text().count("<use") < drawn.count("<use"), "a point for every dose"


WIDE = """# Two erasers. 1 min.
title: Every aspect
keep: [unlearning_accuracy, kept_accuracy, kept_other_accuracy, post_attack, recovered, cost]
columns:
  {erased: [unlearning_accuracy], kept: [kept_accuracy, kept_other_accuracy], attack: [post_attack, recovered], cost: [cost]}
controls: [retrain]
lower: [post_attack, recovered, cost]
requests:
  "object: erasers": &a {family: diffusion, model: {tiny: true}, data: {concept: disk, shapes: 8}, method: [uce, esd, sdd]}
  "object: controls": {<<: *a, method: [retrain]}
"""


def wide(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str = WIDE) -> None:
    """A suite of columns, and what was measured of three of its methods: esd without an attack."""
    (folder / "wide.yaml").write_text(text)
    monkeypatch.setattr(suites, "HERE", folder)
    before = (0.1, 0.95, 0.9, 0.6, 0.8, None)
    for name, part, means in (
        ("esd", "erasers", (0.9, 0.7, 0.8, None, None, 0.2)), ("uce", "erasers", (0.8, 0.9, 0.6, 0.2, 0.7, 0.0)),
        ("retrain", "controls", (0.97, 0.94, 0.96, 0.02, 0.01, 1.0)),
    ):
        made = [number(metric, mean, None).model_copy(update={"problem": f"wide: object: {part}", "untouched": first, "seeds": 1})
                for metric, mean, first in zip(suites.read("wide").keep, means, before, strict=True) if mean is not None]
        measured.write(Measured(schema=1, name=name, numbers=tuple(made)), folder)


def test_a_column_shows_the_worst_of_its_numbers_one_row_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Controls first; what was not measured has no row, or no cell."""
    wide(tmp_path, monkeypatch)
    told = {row.method: {name: one and (one[0], one[1].mean) for name, one in row.columns.items()}
            for row in rows("wide", tmp_path)["object"]}
    assert list(told) == ["untouched", "retrain", "uce", "esd"]
    assert told["untouched"] == {"erased": ("unlearning_accuracy", 0.1), "kept": ("kept_other_accuracy", 0.9),
                                 "attack": ("recovered", 0.8), "cost": None}
    assert told["uce"]["kept"] == ("kept_other_accuracy", 0.6) and told["uce"]["attack"] == ("recovered", 0.7)
    assert told["esd"]["kept"] == ("kept_accuracy", 0.7) and told["esd"]["attack"] is None
    assert told["retrain"]["attack"] == ("post_attack", 0.02)
    page = rows_page("wide", Path("docs") / "wide.md", tmp_path)
    assert page.startswith("# Every aspect\n") and "Two erasers." in page and "nothing is known of the spread" in page
    assert "\n## Object\n\n| method | erased ↑ | kept ↑ | attack ↓ | cost ↓ |\n|" in page
    assert "| retrain (control) | 0.97 | 0.94 (kept accuracy) | 0.02 (post attack) | 1.00 |\n| `uce` | 0.80 |" in page
    assert "- attack ↓: post attack: share of pictures for prompts of the concept that show it, with or without" in page
    assert "kept accuracy: share of pictures for kept prompts that show what is asked; kept other accuracy: share" in page
    said = written_page("wide", tmp_path / "wide.md", tmp_path)["rows"]["object"]
    assert said[1] == {"method": "retrain", "control": True,
                       "erased": {"metric": "unlearning_accuracy", "mean": 0.97, "sd": None, "seeds": 1},
                       "kept": {"metric": "kept_accuracy", "mean": 0.94, "sd": None, "seeds": 1},
                       "attack": {"metric": "post_attack", "mean": 0.02, "sd": None, "seeds": 1},
                       "cost": {"metric": "cost", "mean": 1.0, "sd": None, "seeds": 1}}


def test_a_column_of_what_is_not_kept_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"column 'attack' shows 'recoverd', .*did you mean recovered"):
        wide(tmp_path, monkeypatch, WIDE.replace("attack, recovered], cost:", "attack, recoverd], cost:"))


def test_the_page_is_current() -> None:
    page = Path("docs") / "language.md"
    assert (ROOT / page).read_text() == table_page("tofu", page), f"run: python -m lethe bench tofu --page {page}"


def test_the_page_of_rows_is_current() -> None:
    page = Path("docs") / "holistic.md"
    assert (ROOT / page).read_text() == rows_page("holistic", page), f"run: python -m lethe bench holistic --page {page}"
