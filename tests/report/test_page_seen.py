"""The page as it is seen: no number that is none, no empty cell, every row decided by a named test, heads, captions, contrast."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from example_results import results
from matplotlib.colors import to_hex

from lethe.core.evidence import HOLDOUT, NO_POWER, RASHOMON
from lethe.report import view
from lethe.report.colours import BAND, themed
from lethe.report.figure import drawing, svg
from lethe.report.page import _style, save
from lethe.report.recommend import beside
from lethe.report.sketch import Box, Sketch, Stroke, Word
from lethe.report.strip import strip
from lethe.report.table import terminal_table
from lethe.report.tradeoff import tradeoff
from lethe.results.answers import Decisive
from lethe.results.schema import read

OLD = json.loads((Path(__file__).parents[1] / "results" / "version1.json").read_text())


def small(**changes: Any) -> dict[str, Any]:
    """One scenario, as the schema before the newest has it."""
    data = results()
    return {**data, "scenarios": [{**data["scenarios"][0], **changes}]}


def without_references(kind: str) -> dict[str, Any]:
    """The same where nothing was retrained: a weaker yardstick, one end of its band open."""
    data = small(references={"count": 0, "reason": "the task has no recipe"}, false_alarms=None)
    case = data["scenarios"][0]
    case["subjects"] = [row for row in case["subjects"] if row["role"] != "retrained"]
    for row in case["subjects"]:
        for item in row["evidence"]:
            item.update(p=None, p_joint=None, original_outside=None, verdict=NO_POWER, side="")
            item["yardstick"] = {**item["yardstick"], "kind": kind, "high": None, "values": []}
    return data


PAGES: dict[str, dict[str, Any]] = {
    "schema 1": OLD, "schema 2": small(), "schema 3": read(small()).model_dump(mode="json", by_alias=True),
    "regression": small(family="regression", score_name="closeness"), "lm": small(family="lm", objective="behaviour"),
    "diffusion": small(family="diffusion", objective="concept"), "holdout": without_references(HOLDOUT),
    "rashomon": without_references(RASHOMON),
}


@pytest.mark.parametrize("name", PAGES)
def test_every_cell_of_the_page_says_something(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lethe.report.page.find_spec", lambda _: None)   # figures cost seconds and have tests of their own
    page = save(read(PAGES[name]), tmp_path / "report.html").read_text(encoding="utf-8")
    shown = re.sub(r"<(pre|style|code).*?</\1>", "", page, flags=re.DOTALL)
    assert not re.search(r">[^<]*\b(nan|inf)\b[^<]*<|>\s*None\s*<|\bNone\)", shown)
    assert not re.findall(r"<t[dh][^>]*>\s*</t[dh]>", page), "an empty cell"
    assert not re.findall(r"<th(?! scope)[^ea]", page) and page.count("<table") == page.count("<caption>")
    table = page[page.index("Answers by model"):page.index('<dl class="legend">')]
    for row in re.findall(r"<tr class=.*?</tr>", table, flags=re.DOTALL):
        first = re.sub(r"<[^>]*>", " ", row.split("<td")[1])
        assert re.search(r"✗ no\s+\S+ .*[<>]|&[lg]t;|✓ yes, \d+ test|cannot be judged|! \w+", first), first
    if name in ("holdout", "rashomon"):
        assert "A weaker yardstick than retrained models" in page and "To get an answer, state how the model was trained" in page
        assert "limit of retrained models" not in page + (tmp_path / "summary.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("low", "high"), [(None, 0.4), (0.2, None), (0.2, 0.4)])
def test_the_band_drawn_is_the_band_that_decides(low: float | None, high: float | None) -> None:
    """A test with one side has a band with one end: it goes to the edge of the drawing, of every method and of the overview."""
    data = small()
    for row in data["scenarios"][0]["subjects"]:
        for item in row["evidence"]:
            if item.get("yardstick"):
                item.update(range=[None, None])
                item["yardstick"].update(low=low, high=high)
    case = view.cases(read(data))[0]
    with drawing():
        made = [(strip(case, column), column) for column in case.columns.values() if column.yardstick][:3]
        for drawn, column in made:
            assert drawn is not None and column.band == (low, high) and isinstance(drawn.figure, Sketch)
            (band,) = [part for part in drawn.figure.parts if isinstance(part, Box) and part.colour == BAND]
            base = next(part for part in drawn.figure.parts if isinstance(part, Stroke) and part.colour == "#888888")
            (left, _), (right, _) = base.points
            ticks = [(part.x, float(part.text.replace("−", "-"))) for part in drawn.figure.parts
                     if isinstance(part, Word) and part.anchor == "middle" and re.fullmatch(r"−?[\d.]+", part.text)]
            (x, first), (other, last) = ticks[0], ticks[-1]

            def at(value: float, x: float = x, first: float = first, unit: float = (other - x) / (last - first)) -> float:
                return x + (value - first) * unit

            ends = (left if low is None else at(low), right if high is None else at(high))
            assert (band.x, band.x + band.width) == pytest.approx(ends, abs=0.01)
        overview = tradeoff(case)
        assert overview is not None
        for axes in overview.figure.axes[:-1]:
            (region,) = [patch for patch in axes.patches if to_hex(patch.get_facecolor()) == BAND]
            (left, right), edges = region.get_extents().transformed(axes.transData.inverted()).intervalx, axes.get_xlim()
            assert (left, right) == pytest.approx((edges[0] if low is None else low, edges[1] if high is None else high))
        seen = made[0][0]
        assert seen is not None and "fill: var(--ink)" in themed(svg(seen.figure, "x")), "the retrained model at night"


def test_words_for_screen_readers_do_not_widen_the_page() -> None:
    """They are placed absolutely, so only a placed box cuts them: a page of 390 pixels was 1017 wide."""
    assert re.search(r"\.scroll \{[^}]*position: relative", _style()) and re.search(r"\.unseen \{[^}]*absolute", _style())


def test_every_colour_of_text_can_be_read_in_both_schemes() -> None:
    """Contrast by WCAG 2.1: at least 4.5 of every colour of text on both backgrounds, 3 of every mark."""
    def light(colour: str) -> float:
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
                   for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    def contrast(a: str, b: str) -> float:
        high, low = sorted((light(a), light(b)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    blocks = re.findall(r":root \{(.*?)\}", _style(), re.DOTALL)
    schemes = [dict(re.findall(r"--(\w+): (#[0-9a-fA-F]{6})", block)) for block in blocks]
    assert contrast("#ffffff", "#000000") == pytest.approx(21) and len(schemes) >= 2
    for scheme in schemes[:2]:
        for name in ("ink", "soft", "good", "bad", "mute", "link"):
            assert all(contrast(scheme[name], scheme[back]) >= 4.5 for back in ("paper", "pale")), name
    assert all(contrast(colour, schemes[1]["paper"]) >= 3 for name, colour in schemes[1].items() if re.fullmatch(r"m\d+", name))


def test_a_value_just_beyond_its_limit_is_shown_beyond_it() -> None:
    near = Decisive(audit="scores", metric="forget_loss", value=0.0081234, low=None, high=0.0081111, size=0.005)
    assert beside(near) == "forget loss 0.0081234 > 0.0081111"
    assert beside(near.model_copy(update={"high": 0.007})) == "forget loss 0.008 > 0.007"


def pictured() -> dict[str, Any]:
    """An image generator whose pictures were looked at, and nothing was retrained."""
    data = without_references(HOLDOUT)
    case = data["scenarios"][0]
    case.update(family="diffusion", objective="concept", facts={"concept": "disk"}, depth="quick",
                not_tested=[{"audit": "klom", "why": "needs retrained models", "defect": False, "log": ""}])
    kept = [row for row in case["subjects"] if not row["error"]][:3]
    shares = [(0.1, 0.97, 0.98, 0.16), (0.91, 0.85, 0.88, 0.1), (0.99, 0.4, 0.5, 0.1)]   # the original, and two methods
    for row, values in zip(kept, shares, strict=True):
        loss = {**row["evidence"][0], "yardstick": None, "better": "match"}
        item = {**loss, "audit": "erasure", "better": "higher"}
        row["evidence"] = [{**item, "metric": metric, "value": value} for metric, value in zip(
            ("unlearning_accuracy", "kept_accuracy", "outside_accuracy", "prevalence"), values, strict=True)] + [loss]
        row["samples"] = [{"kind": "image", "split": "erased", "caption": "a red disk", "before": "no", "after": "no"}]
        row["conclusion"] = {**row["conclusion"], "text": "there are no retrained models to compare with"}
    case["subjects"] = kept
    return data


def test_a_page_of_pictures_leads_with_the_answer_and_speaks_of_no_retrained_models(tmp_path: Path) -> None:
    found = read(pictured())
    page = save(found, tmp_path / "report.html").read_text(encoding="utf-8")
    shown = re.sub(r"<(pre|style|code).*?</\1>", "", page, flags=re.DOTALL)
    best = found.scenarios[0].subjects[1].label or found.scenarios[0].subjects[1].name
    lead = re.search(r'<p class="headline">(.*?)</p>', page)
    assert lead and lead[1] == f"{best}: disk gone in 91 % of pictures (limit 84 %), neighbours 85 %, out of scope 88 %."
    assert not re.search("retrain|trained anew", shown, re.IGNORECASE)   # nor in figures, nor behind what folds
    assert shown.index("With the concept") < shown.index("<h2") and "Neighbours<span" in shown
    table = terminal_table(found)
    assert table.startswith(lead[1][:40]) and not re.search("retrain", table, re.IGNORECASE)
