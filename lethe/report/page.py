"""The report as one HTML page: the answer first, then the table, the figures, and every number behind them.

Self-contained: style and figures are inside, nothing is fetched, there is no script. Whatever comes from users (titles,
labels, prompts, answers) is escaped by the template engine; pictures must be base64 PNG, or they are named unreadable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from lethe.core.extras import needs_extra
from lethe.core.files import write_text
from lethe.report import plots, words
from lethe.report.leaderboard import entries
from lethe.report.search import searches
from lethe.report.view import Case, Row, answer, cases, expected

PNG = re.compile(r"iVBORw0KGgo[A-Za-z0-9+/]*={0,2}")   # base64 of the eight bytes every PNG begins with


def save(results: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page atomically."""
    write_text(Path(path), render(results))
    return Path(path)


def render(results: Mapping[str, Any]) -> str:
    """The page of a results dictionary (`lethe.results`)."""
    try:
        import jinja2
    except ImportError:
        raise needs_extra("report", "the page", "jinja2", "it was not written; the numbers are in results.json") from None
    house = files("lethe.report")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.ChainableUndefined)
    for written in (words.number, words.interval, words.duration, words.spaced):   # what is absent is shown as such
        environment.filters[written.__name__] = partial(_present, jinja2.Undefined, written)
    environment.filters["when"] = _when
    with plots.drawing():
        scenarios = [_scenario(case, place) for place, case in enumerate(cases(results), start=1)]
    from markupsafe import Markup

    style = Markup((house / "page.css").read_text("utf-8"))
    return environment.from_string((house / "page.html.j2").read_text("utf-8")).render(
        results=results, scenarios=scenarios, style=style,
        created=_when(results.get("created")), config=_pretty(results.get("config")), expected=expected,
        spoken=lambda row: words.SPOKEN.get(row.verdict, row.verdict), sign=words.sign, direction=words.DIRECTION,
        tone=_tone, spread=_spread, depths=words.DEPTHS, access=words.ACCESS, kinds=words.KINDS,
    )


def _scenario(case: Case, place: int) -> dict[str, Any]:
    """What the template shows of one scenario."""
    look = plots.case_looks(case)
    overview = plots.tradeoff(case)
    audits: dict[str, list[dict[str, Any]]] = {}
    for column in case.columns.values():
        audits.setdefault(column.audit, []).append({
            "column": column, "strip": _drawn(plots.strip(case, column)),
            "scores": _drawn(plots.histograms(case, column)),
            "numbers": [(row, row.cells[column.key]) for row in case.rows if column.key in row.cells],
        })
    blind = {entry["audit"]: entry["text"] for entry in case.raw.get("blind") or [] if entry.get("text")}
    return {
        "case": case, "place": place, "raw": case.raw, "title": case.name or case.raw.get("request") or "",
        "look": look, "answer": answer(case), "overview": _drawn(overview), "audits": audits, "blind": blind,
        "searches": [_drawn(made) for made in searches(case)], "leaders": entries(case, case.main),
        "gallery": [(row, shown) for row in case.methods if (shown := _samples(row))],
        "fingerprints": _pretty(case.raw.get("fingerprints")), "facts": _pretty(case.raw.get("facts")),
    }


def _present(undefined: type, written: Callable[..., str], *values: Any) -> str:
    return written(*[None if isinstance(value, undefined) else value for value in values])


def _drawn(made: plots.Drawing | None) -> dict[str, Any] | None:
    if made is None:
        return None
    from markupsafe import Markup

    return {"svg": Markup(plots.svg(made.figure, made.title)), "title": made.title, "caption": made.caption}


def _samples(row: Row) -> list[dict[str, Any]]:
    """Samples of the first seed; pictures that are no PNG lose their data."""
    shown = []
    for sample in row.members[0].get("samples") or []:
        kept = dict(sample)
        if sample.get("kind") == "image":
            for key in ("before", "after"):
                kept[key] = sample.get(key) if PNG.fullmatch(str(sample.get(key) or "")) else None
        shown.append(kept)
    return shown


def _tone(verdict: str) -> str:
    """The CSS class of a verdict."""
    return "v-" + verdict.replace(" ", "-")


def _when(text: Any) -> str:
    try:
        return datetime.fromisoformat(str(text)).strftime("%d %B %Y, %H:%M %Z").strip(", ")
    except ValueError:
        return str(text or "")


def _spread(found: Mapping[str, Any] | None) -> str:
    """mean ± sd (n) of an entry of the leaderboard."""
    if not found or found.get("mean") is None:
        return "–"
    return words.number(found["mean"]) + (f" ± {words.number(found['sd'])} ({found['n']})" if found.get("sd") is not None else "")


def _pretty(value: Any) -> str:
    return "" if not value else json.dumps(value, indent=2, ensure_ascii=False, default=str)


