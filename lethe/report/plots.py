"""Every figure of a scenario: forgetting against utility and cost, one strip per metric, scores of records, searches."""

from __future__ import annotations

from lethe.report.figure import Drawing
from lethe.report.scores import scores
from lethe.report.search import searches
from lethe.report.strip import strip
from lethe.report.tradeoff import tradeoff
from lethe.report.view import Case


def drawings(case: Case) -> list[Drawing]:
    """Every figure of a scenario; `lethe.report.figure.drawing` must be entered."""
    figures = [tradeoff(case), *(maker(case, column) for column in case.columns.values() for maker in (strip, scores))]
    return [figure for figure in figures if figure is not None] + searches(case)
