"""`lethe bench SUITE --page FILE.md` where the suite has `claims` or `columns`: one row a method. No torch.

A column stands for one or more metrics: of several the worst for the method is shown, by name.

A claim says that a metric of some methods is better than another method's, on one problem. It holds for a method where the
difference of the means over originals is in the claimed direction and beyond two standard errors,

    d = m̄ − m̄',     se = √(s²/n + s'²/n'),     holds: d > 2·se,     does not: d < −2·se,     else these originals cannot tell.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lethe.bench.courses import course, doses, shown, value
from lethe.bench.curves import FACTS, declared, directions
from lethe.bench.page import ENDINGS, Cell, as_table, cells, endings, written_as
from lethe.bench.suite import Claim, Suite, expectation, read
from lethe.core.catalogue import entries
from lethe.core.words import heading, spaced
from lethe.results.measured import Number

FAR = 2.0       # standard errors beyond which a difference is one
LOG10 = 1.3     # −log10 of 0.05, TOFU's threshold of forget quality
HELD = 0.9      # share of the original's utility that has to be left

HEAD = """# {title}

Rebuilt by `lethe bench {suite} --data-root DATA` (measures) and `lethe bench {suite} --page {page}` (writes this page).
{about}

How to read a cell: mean ± standard deviation over {seeds} originals; – where no audit could measure it. **Bold** methods:
forget quality cannot be told from retraining (p of at least 0.05) and at least {held:.0f} % of the original's utility is left.
† some runs did not end as the method meant; the reasons stand below the table. Time: of one retraining.
↑ more is better, ↓ less is, ≈ what is like retrained models is.
"""


def table_page(suite: str, page: Path, place: Path | None = None) -> str:
    """The page as Markdown; it depends on the suite and the files of `measured/` alone."""
    asked, found = read(suite), cells(suite, place)
    seeds = max((one.seeds for some in found.values() for cell in some for one in cell.numbers.values()), default=0)
    head = HEAD.format(title=asked.title, suite=suite, page=written_as(page),
                       about=expectation(suite), seeds=seeds, held=100 * HELD)
    by = {problem: {cell.method: cell for cell in some} for problem, some in found.items()}
    groups = doses(asked)
    alone = {problem: some for problem, some in found.items() if not any(problem in group.values() for group in groups.values())}
    lines = "".join(course(metric, groups, found) for metric in asked.courses)
    lines = lines and f"\n![{asked.title}]({page.with_suffix('.svg').name})\n{lines}"
    told = "".join(_problem(problem, some, asked.keep, _absent(asked, problem, some)) for problem, some in alone.items())
    return head + "".join(_claim(one, by.get(one.problem, {})) for one in asked.claims) + lines + told


ROWS = """# {title}

Rebuilt by `lethe bench {suite}` (measures) and `lethe bench {suite} --page {page}` (writes this page; `--json` gives the rows).
{about}

How to read a cell: {spread}; – where nothing was measured. A column of several numbers shows the worst of them, by name.
† some runs did not end as the method meant; the reasons stand below the table. ↑ more is better, ↓ less is.

{legend}"""


@dataclass(frozen=True)
class Row:
    """One method. columns: heading -> the metric that is the worst of its column, and its number; None: not measured."""

    method: str
    control: bool
    marks: str
    columns: Mapping[str, tuple[str, Number] | None]

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"method": self.method, "control": self.control} | {
            column: None if one is None else {"metric": one[0], "mean": one[1].mean, "sd": one[1].sd, "seeds": one[1].seeds}
            for column, one in self.columns.items()}


def rows(suite: str, place: Path | None = None) -> dict[str, list[Row]]:
    """By group of the suite: the untouched original, the controls, then the methods, in the order of the suite, each once."""
    asked, found = read(suite), cells(suite, place)
    made: dict[str, list[Row]] = {}
    for group, problems in asked.groups().items():
        some = {cell.method: cell for problem in reversed(problems.values()) for cell in found.get(problem, ())}
        named = [str(one["name"]) for problem, request in asked.problems() if problem in problems.values()
                 for one in request.methods]
        order = [name for name in dict.fromkeys([*asked.controls, *named]) if name in some]
        if order:
            before = {metric: one.model_copy(update={"mean": one.untouched, "sd": None}) for name in reversed(order)
                      for metric, one in some[name].numbers.items() if one.untouched is not None}
            made[group] = [Row("untouched", True, "", _worst(asked, before)), *(
                Row(name, name in asked.controls, some[name].marks, _worst(asked, some[name].numbers)) for name in order)]
    return made


def _worst(asked: Suite, numbers: Mapping[str, Number]) -> dict[str, tuple[str, Number] | None]:
    """Of each column the metric with the worst mean.

    Attacks .2, .7 and .5, where less is better: .7; kept .9 and .6: .6.
    """
    ways = directions(asked.keep, asked.lower)
    found: dict[str, tuple[str, Number] | None] = {}
    for name, metrics in asked.columns.items():
        known = {metric: mean if ways[metric] == "lower" else -mean for metric in metrics
                 if metric in numbers and (mean := numbers[metric].mean) is not None}
        worst = max(known, key=lambda metric: known[metric], default=None)
        found[name] = None if worst is None else (worst, numbers[worst])
    return found


def rows_page(suite: str, page: Path, place: Path | None = None) -> str:
    """The page of a suite with `columns` as Markdown; it depends on the suite and the files of `measured/` alone."""
    asked, made, every = read(suite), rows(suite, place), cells(suite, place)
    ways = directions(asked.keep, asked.lower)
    heads = {name: f"{name} {'↓' if ways[metrics[0]] == 'lower' else '↑'}" for name, metrics in asked.columns.items()}
    seeds = max((one[1].seeds for some in made.values() for row in some for one in row.columns.values() if one), default=0)
    spread = "the value of one original, so that nothing is known of the spread" if seeds == 1 else (
        f"mean ± standard deviation over {seeds} originals")
    text = ROWS.format(title=asked.title, suite=suite, page=written_as(page), about=expectation(suite), spread=spread,
                       legend=_legend(asked, heads))
    for group, some in made.items():
        mine = [cell for problem in asked.groups()[group].values() for cell in every.get(problem, ())]
        text += f"\n## {heading(group)}\n" + as_table(["method", *heads.values()], [
            [_titled(row), *(_written(asked, *one) for one in row.columns.items())] for row in some])
        text += "".join(endings(kind, title, mine) for kind, title in ENDINGS.items())
    return text


def _legend(asked: Suite, heads: Mapping[str, str]) -> str:
    """What every column counts, in the words of the audits."""
    known = {**{metric: one["args"][0] for metric, one in declared().items() if one.get("args")}, **FACTS}

    def told(metrics: Sequence[str]) -> str:
        words = {metric: known.get(metric) or next((text for name, text in known.items() if fnmatch.fnmatch(metric, name)), "")
                 for metric in metrics}
        alike = {text: ", ".join(spaced(metric) for metric in metrics if words[metric] == text) for text in words.values()}
        return "; ".join(f"{names}{text and ': ' + text}" for text, names in alike.items())

    return "".join(f"- {heads[name]}: {told(metrics)}\n" for name, metrics in asked.columns.items())


def _titled(row: Row) -> str:
    name = f"{row.method} (control)" if row.control else f"`{row.method}`"
    return f"{name} {row.marks}".strip()


def _written(asked: Suite, column: str, one: tuple[str, Number] | None) -> str:
    """A cell; of a column of several metrics with the name of the one that is shown."""
    if one is None:
        return "–"
    return shown(one[1]) + (f" ({spaced(one[0])})" if len(asked.columns[column]) > 1 else "")


def verdict(mine: Number | None, theirs: Number | None, lower: bool) -> str:
    """Whether mine is better: 'yes', 'no', 'cannot be told'; '–' where one was not measured.

    3 ± 1 against 1 ± 1, three originals each: 2 > 2·√(1/3 + 1/3) = 1.63, yes; 2.5 ± 1 against 1 ± 1 cannot be told.
    """
    if mine is None or theirs is None or mine.mean is None or theirs.mean is None:
        return "–"
    if mine.sd is None or theirs.sd is None:   # of one original nothing is known of the spread
        return "cannot be told"
    better = (theirs.mean - mine.mean) if lower else (mine.mean - theirs.mean)
    error = math.sqrt(mine.sd**2 / mine.seeds + theirs.sd**2 / theirs.seeds)
    return "yes" if better > FAR * error else "no" if better < -FAR * error else "cannot be told"


def _claim(claim: Claim, some: Mapping[str, Cell]) -> str:
    """A claim in words, with a row for each of its methods and the one that it is about."""
    lower = ways().get(claim.metric) == "↓"
    theirs = _number(some.get(claim.than), claim.metric)
    found = [(name, verdict(_number(some.get(name), claim.metric), theirs, lower)) for name in claim.methods]
    counts = ", ".join(f"{words}: {sum(one == words for _, one in found)}" for words in ("yes", "no", "cannot be told", "–")
                       if any(one == words for _, one in found))
    rows = "".join(f"| `{name}` | {shown(_number(some.get(name), claim.metric))} | {one} |\n" for name, one in found)
    return (f"\n## Claim: {claim.says}\n\"{claim.problem}\": of {len(found)} methods {counts}.\n\n"
            f"| method | {_head(claim.metric)} | better than `{claim.than}` |\n|---|---|---|\n"
            f"{rows}| `{claim.than}` | {shown(theirs)} | |\n")


def _absent(asked: Suite, problem: str, some: Sequence[Cell]) -> list[str]:
    """Methods that the suite names there and that were not measured."""
    request = next(request for name, request in asked.problems() if name == problem)
    return [str(one["name"]) for one in request.methods if one["name"] not in {"all", *(cell.method for cell in some)}]


def _problem(problem: str, some: Sequence[Cell], keep: Sequence[str], absent: Sequence[str]) -> str:
    """Controls, then the methods, those that do alike together."""
    metrics = [metric for metric in keep if any(metric in cell.numbers for cell in some)]
    known = entries("methods")
    kind = {cell.method: str(known[cell.method].facts.get("mechanism", "")) if cell.method in known else "" for cell in some}
    rows = "".join(f"| {name} | | {' | '.join(_control(some, metric, role) for metric in metrics)} |\n"
                   for name, role in (("untouched", "untouched"), ("retrained", "retrained")))
    for cell in sorted(some, key=lambda cell: (kind[cell.method], cell.method)):
        rows += f"| {_named(cell)} | {kind[cell.method]} | {' | '.join(shown(_number(cell, metric)) for metric in metrics)} |\n"
    heads = " | ".join(_head(metric) for metric in metrics)
    why = "".join(endings(words, title, list(some)) for words, title in ENDINGS.items())
    why += f"\nNot measured: {', '.join(f'`{name}`' for name in absent)}.\n" if absent else ""
    title = f"{problem[0].upper()}{problem[1:]}"
    return f"\n## {title}\n\n| method | how | {heads} |\n|---|---|{'---|' * len(metrics)}\n{rows}{why}"


def _named(cell: Cell) -> str:
    name = f"**`{cell.method}`**" if good(cell) else f"`{cell.method}`"
    return f"{name} {cell.marks}" if cell.marks else name


def good(cell: Cell) -> bool:
    """Whether its forget quality cannot be told from a retrained model's, and its utility is nearly the original's."""
    quality, kept = (_number(cell, metric) for metric in ("forget_quality_log10", "mu_retain"))
    return (quality is not None and quality.mean is not None and quality.mean >= -LOG10 and kept is not None
            and kept.mean is not None and kept.untouched is not None and kept.mean >= HELD * kept.untouched)


def _number(cell: Cell | None, metric: str) -> Number | None:
    return None if cell is None else cell.numbers.get(metric)


def _control(some: Sequence[Cell], metric: str, role: str) -> str:
    return value(next((getattr(one.numbers[metric], role) for one in some if metric in one.numbers), None))


def _head(metric: str) -> str:
    return f"{spaced(metric)} {ways().get(metric, '≈')}"


def ways() -> dict[str, str]:
    """Which way of a metric is better, as the audits declare it; what they hold against retrained models has none."""
    arrows = {"higher": "↑", "lower": "↓"}
    found = dict.fromkeys(("time", "cost"), "↓")
    for metric, one in declared().items():
        if better := one.get("better", next(iter(one.get("args", ())[2:3]), None)):
            found[metric] = arrows[better]
    return found
