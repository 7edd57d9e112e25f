"""The page of what was measured: a cell follows from the numbers; the page in docs and the README follow from measured/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lethe.bench.page import Cell, _overview, _total, cells, measured_page
from lethe.core import catalogue
from lethe.results.measured import Number, Reason

ROOT = Path(__file__).resolve().parents[2]


def cell(forgotten: float | None, lost: float, js: float, failed: int = 0, *reasons: Reason) -> Cell:
    values = {"js_forget": (js, 0.9, 0.1), "points lost": (lost, 0.0, 0.0), "margin": (3.0, 3.0, 3.0),
              **({} if forgotten is None else {"forgotten": (forgotten, 0.0, 1.0)})}
    return Cell("foo", {metric: Number(problem="s: p", metric=metric, mean=mean, sd=None, seeds=3 - failed, failed=failed,
                                       untouched=before, retrained=after, command="", commit="")
                        for metric, (mean, before, after) in values.items()}, reasons)


def test_a_cell_is_bold_only_where_all_runs_forgot_and_nothing_more_was_lost_than_the_margin() -> None:
    assert cell(1.0, 2.9, 0.14).short == "**5 % · 2.9**"   # (0.14 − 0.1) of (0.9 − 0.1)
    assert cell(1.0, 3.1, 0.14).short == "5 % · 3.1"
    assert cell(2 / 3, 0.0, 0.14).short == "5 % · 0.0"
    assert cell(1.0, 0.0, 0.14, 1).short == "5 % · 0.0"    # one run has no model
    assert cell(None, -0.4, 0.18).short == "**10 % · −0.4**"   # not testable: by the distance
    assert cell(None, -0.4, 0.20).short == "12 % · −0.4"
    ended = Reason(problem="s: p", kind="ended", seeds=(1,), text="the watchdog ended the run")
    assert cell(1.0, 0.0, 0.14, 0, ended).short == "**5 % · 0.0** †"
    unsure = ended.model_copy(update={"kind": "unsure"})
    assert cell(1.0, 3.1, 0.14, 0, unsure).short == "5 % · 3.1 ‡" and cell(1.0, 0.0, 0.14, 0, ended, unsure).marks == "†‡"


def test_runs_of_all_problems_are_counted_together() -> None:
    """3 of 4 and 1 of 2, one of which has no model; where a fact was not asked it does not count."""
    def one(problem: str, mean: float, seeds: int, failed: int) -> Number:
        return Number(problem=problem, metric="indistinguishable", mean=mean, sd=None, seeds=seeds, failed=failed, command="",
                      commit="")

    found = {"a": [Cell("m", {"indistinguishable": one("a", 0.75, 4, 0)}, ())],
             "b": [Cell("m", {"indistinguishable": one("b", 1.0, 1, 1)}, ()), Cell("n", {}, ())]}
    table = _total(found).splitlines()
    assert table[3:] == ["| `m` | 4 of 6 runs (67 %) | – | 2 |"] and not _total({"b": [Cell("n", {}, ())]})


def test_wide_tables_are_parted() -> None:
    found = {f"p{i}": [Cell("m", {}, ())] for i in range(9)}
    assert [line for line in _overview(found).splitlines() if line.startswith("| method")] == [
        "| method | p0 | p1 | p2 | p3 | p4 | p5 | p6 |", "| method | p7 | p8 |"]


def test_no_loss_beyond_the_margin_goes_unsaid() -> None:
    """Every run ends within its stated loss, as far as the unseen data of an audit tell, or says why not."""
    found = cells("strangers")
    assert found and all(one.mean("lost at least") is not None for some in found.values() for one in some if not one.failed)
    silent = {f"{problem}: {one.method}": one.mean("lost at least") for problem, some in found.items() for one in some
              if not one.reasons and not one.failed and one.mean("lost at least") > one.mean("margin")
              and catalogue.load("methods", one.method).judged}
    assert not silent, f"more than the margin was lost, and the watchdog said nothing: {silent}"


@pytest.mark.parametrize(("suite", "page"), [("strangers", Path("docs/measured.md")), ("renew", Path("docs/renewal.md"))])
def test_the_page_is_current(suite: str, page: Path) -> None:
    assert (ROOT / page).read_text() == measured_page(suite, page), f"run: python -m lethe bench {suite} --page {page}"


def test_the_readme_recommends_what_did_well_on_the_page() -> None:
    """Every row that names a problem of the page recommends methods that forgot there and stayed useful."""
    found = cells("strangers")
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if re.match(r"\| .*\(measured: ", line)]
    assert len(rows) >= 4
    for row in rows:
        problem = next(iter(re.findall(r"\(measured: ([^)]*)\)", row)))
        good = {one.method for one in found[problem] if one.good}
        named = set(re.findall(r"`(\w+)`", row.split("|")[3]))
        assert named and named <= good, f"{problem}: {named - good} did not do well; these did: {good}"
