"""The report as one HTML page: the answer first, then the table, the figures, and every number behind them.

Self-contained: style and figures are inside, nothing is fetched, there is no script. All that comes from users (titles,
labels, prompts, answers) is escaped by the template engine; pictures must be base64 PNG, or they are named unreadable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from lethe.core.evidence import Ending, Verdict
from lethe.core.extras import needs_extra
from lethe.core.files import write_text
from lethe.core.words import number, spaced
from lethe.report import ended, ladder, recommend, words
from lethe.report.answer import Answer, answer, expected
from lethe.report.colours import NIGHT, PALETTE, Look, themed, variable, variables
from lethe.report.figure import Drawing, case_looks, drawing, svg
from lethe.report.leaderboard import Spread, Standing, entries
from lethe.report.pictures import COLUMNS, Drawn, Pictures, alone, grid, of_retraining, percent, pictures, share
from lethe.report.scores import scores
from lethe.report.search import front, options, searches
from lethe.report.strip import strip
from lethe.report.tradeoff import tradeoff
from lethe.report.view import Case, Cell, Column, Line, cases, limits
from lethe.results.answered import remedy
from lethe.results.schema import NotTested, Results, Sample, Scenario, TextSample, Trial

SUMMARY = "summary.html"
WEAKER = {"holdout": "what a model to which the data are unseen would show",   # yardsticks that are not retrained models
          "rashomon": "what models as good as the untouched one show, which know the data, too"}
PNG = re.compile(r"iVBORw0KGgo[A-Za-z0-9+/]*={0,2}")   # base64 of the eight bytes every PNG begins with


@dataclass(frozen=True)
class Figure:
    """A figure as the page shows it; `svg` is safe markup."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Metric:
    """Everything about one metric: its figures, and each line's cell."""

    column: Column
    strip: Figure | None
    scores: Figure | None
    numbers: list[tuple[Line, Cell]]


@dataclass(frozen=True)
class Section:
    """What the page shows of one scenario; `scenario` holds the rest."""

    case: Case
    place: int
    title: str
    look: Mapping[str, Look]
    answer: Answer
    overview: Figure | None
    audits: Mapping[str, list[Metric]]
    blind: Mapping[str, str]
    searches: list[Figure]
    leaders: list[Standing]
    gallery: list[tuple[Line, tuple[Sample, ...]]]
    fingerprints: str
    facts: str
    pictures: Pictures | None
    grid: tuple[list[str], list[Drawn]]

    @property
    def front(self) -> list[tuple[str, list[Trial]]]:
        """The candidates of every search that no other beats."""
        return front(self.case)

    @property
    def answered(self) -> list[tuple[Line, list[TextSample]]]:
        """The answers of language models before and after, by method; pictures are in the grid."""
        texts = [(line, [one for one in samples if isinstance(one, TextSample)]) for line, samples in self.gallery]
        return [(line, some) for line, some in texts if some]

    @property
    def alone(self) -> bool:
        """Whether pictures alone give the answer: nothing was retrained."""
        return alone(self.case)

    @property
    def untested(self) -> tuple[list[NotTested], int]:
        """The audits that were not carried out, and how many of those compare with models trained anew where there are none."""
        listed = [one for one in self.scenario.not_tested if not (self.alone and of_retraining(one.why))]
        return listed, len(self.scenario.not_tested) - len(listed)

    @property
    def scenario(self) -> Scenario:
        return self.case.scenario

    @property
    def limit(self) -> str:
        """The largest loss that was declared not to matter."""
        return recommend.limit(self.case)

    @property
    def unit(self) -> str:
        """What the change of the score is counted in."""
        return recommend.unit(self.case)

    @property
    def weaker(self) -> str:
        """The yardsticks of main metrics that are not retrained models, in words."""
        kinds = {column.yardstick.kind for column in self.case.main if column.yardstick is not None}
        return "; ".join(words for kind, words in WEAKER.items() if kind in kinds)

    @property
    def repeated(self) -> bool:
        """Whether a method was run with several seeds."""
        return any(len(line.members) > 1 for line in self.case.methods)

    @property
    def make(self) -> str:
        """The method of the recommended row, or of the best one by its pictures, as a request has it."""
        line = self.answer.recommended.line or (self.pictures.best if self.pictures is not None else None)
        return "" if line is None else f"method={line.members[0].method or line.label}"

    @property
    def retraining(self) -> float | None:
        """Seconds of one retraining."""
        return self.case.retraining.seconds


def save(results: Results, path: str | Path) -> Path:
    """Write the page atomically, and beside it one sheet for whoever asked: `summary.html`, or `PAGE-summary.html`."""
    path = Path(path)
    sheet = path.with_name(SUMMARY if path.stem == "report" else f"{path.stem}-{SUMMARY}")
    sections = _sections(results)
    write_text(sheet, _render("summary.html.j2", results, sections, path.name))
    write_text(path, _render("page.html.j2", results, sections, sheet.name))
    return path


def render(results: Results) -> str:
    """The page of an audit or a comparison."""
    return _render("page.html.j2", results, _sections(results))


def _sections(results: Results) -> list[Section]:
    figures = find_spec("matplotlib") is not None   # without it, the page lacks the overview: rather that than no page
    with drawing() if figures else nullcontext():
        return [_section(case, place, figures) for place, case in enumerate(cases(results), start=1)]


def _render(template: str, results: Results, sections: Sequence[Section], sheet: str = "") -> str:
    """A page from its template. sheet: the file beside it, if any: of the page the summary, of that the page."""
    try:
        import jinja2
    except ImportError:
        raise needs_extra("report", "the page", "jinja2", "it was not written; the numbers are in results.json") from None
    from markupsafe import Markup, escape

    house = files("lethe.report")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
                                     loader=jinja2.FunctionLoader(lambda name: (house / name).read_text("utf-8")))
    for written in (number, words.interval, words.duration, spaced, limits, variable):
        environment.filters[written.__name__] = written
    environment.filters["when"] = _when
    environment.filters["breakable"] = lambda label: escape(label).replace("_", Markup("_<wbr>"))
    return environment.get_template(template).render(
        results=results, sections=sections, sheet=sheet, style=Markup(_style()),
        config=_pretty(results.config), expected=expected, spoken=words.SPOKEN, sign=words.sign, direction=words.direction,
        tone=_tone, spread=_spread, picture=_picture, depths=words.DEPTHS, access=words.ACCESS, watched=words.watched,
        kinds=words.KINDS, done=recommend.DONE, means=recommend.MEANS, told_forgotten=recommend.forgotten,
        told_useful=recommend.useful_cell, told_like=recommend.like, told_beside=recommend.beside, told_change=recommend.useful,
        power=recommend.power, margin=recommend.margin, change=recommend.change, failure=ended.briefly, ended=ended.ended,
        columns=COLUMNS, share=share, percent=percent, weaker=WEAKER, remedy=remedy, beside=recommend.compared, ladder=ladder,
        trial_options=options,
    )


def _section(case: Case, place: int, figures: bool) -> Section:
    scenario = case.scenario
    gallery = [(line, shown) for line in case.methods if (shown := line.members[0].samples)]

    audits: dict[str, list[Metric]] = {}
    for column in case.columns.values():
        audits.setdefault(column.audit, []).append(Metric(
            column, _drawn(strip(case, column)), _drawn(scores(case, column)),
            [(line, line.cells[column.key]) for line in case.lines if column.key in line.cells]))
    return Section(
        case, place, scenario.name or scenario.request, case_looks(case), answer(case),
        _drawn(tradeoff(case)) if figures else None, audits,
        {entry.audit: entry.text for entry in scenario.blind if entry.text},
        [made for one in (searches(case) if figures else []) if (made := _drawn(one)) is not None], entries(case, case.main),
        gallery,
        _pretty(scenario.fingerprints), _pretty(scenario.facts), pictures(case), grid(gallery),
    )


def _drawn(made: Drawing | None) -> Figure | None:
    from markupsafe import Markup

    return None if made is None else Figure(Markup(themed(svg(made.figure, made.title))), made.caption)


def _style() -> str:
    """The style of every page: the colours of methods for light and dark, then all the rest."""
    text = (files("lethe.report") / "page.css").read_text("utf-8")
    return text.replace("/* light */", variables(PALETTE)).replace("/* dark */", variables(NIGHT))


def _picture(data: str) -> str | None:
    """The base64 of a PNG; None when it is none."""
    return data if PNG.fullmatch(data) else None


def _tone(verdict: Verdict | Ending) -> str:
    """The CSS class of a verdict."""
    return "v-" + verdict.replace(" ", "-")


def _when(text: str) -> str:
    try:
        return datetime.fromisoformat(text).strftime("%d %B %Y, %H:%M %Z").strip(", ")
    except ValueError:
        return text


def _spread(found: Spread | None) -> str:
    """mean ± sd (n) of an entry of the leaderboard."""
    if found is None or found.mean is None:
        return "–"
    return number(found.mean) + (f" ± {number(found.sd)} ({found.n})" if found.sd is not None else "")


def _pretty(value: object) -> str:
    return "" if not value else json.dumps(value, indent=2, ensure_ascii=False, default=str)
