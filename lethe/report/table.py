"""The comparison as text for the terminal, and every value as CSV."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lethe.core.evidence import FAILED, INSIDE, OUTSIDE, Ending, Verdict
from lethe.core.files import csv_text
from lethe.core.words import number, spaced
from lethe.report import ladder
from lethe.report.answer import answer
from lethe.report.ended import briefly
from lethe.report.pictures import alone
from lethe.report.recommend import DONE, MARKS, forgotten, like, limit, unit, useful_cell
from lethe.report.view import Case, Column, Line, cases, limits
from lethe.report.words import duration, printable, sign, watched
from lethe.results.ladder import Ladder
from lethe.results.schema import Measurement, Results, Row

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ELSEWHERE = 120   # letters of a line where the output is no terminal
COLOURS: dict[Verdict | Ending, str] = {INSIDE: "green", OUTSIDE: "red", FAILED: "red"}
LEGEND = ("✓ yes, ✗ no (by which test, and the limit of retrained models that it passed), ~ not shown, ○ cannot be judged. "
          "Useful: change of the score, 95 % interval. Time: beside one retraining.")
LESS = ((1, "intervals"), (2, "what makes a model conspicuous or like retraining"), (4, "the tests that decided"))   # by step
TONES = {"yes": "green", "no": "red"}
KEPT = ("audit", "metric", "value", "low", "high", "n", "verdict", "side", "p", "p_joint", "original", "better", "tier",
        "version", "aspect", "margin", "equivalent", "smallest_margin")
YARDSTICK = ("kind", "mean", "sd", "n", "low", "high")


def terminal_table(results: Results, width: int | None = None, colour: bool | None = None) -> str:
    """The answer and the overview table of every scenario. Plain text where the output is not a terminal.

    Columns that do not fit into `width` (default: the terminal's, 120 elsewhere) are left out and named below.
    """
    from rich.console import Console
    from rich.text import Text

    terminal = sys.stdout.isatty() if colour is None else colour
    width = width or (shutil.get_terminal_size().columns if terminal else ELSEWHERE)
    handle = io.StringIO()
    console = Console(file=handle, width=width, force_terminal=terminal, color_system="standard" if terminal else None,
                      no_color=not terminal, highlight=False, markup=False, emoji=False)
    for place, case in enumerate(cases(results)):
        if place:
            console.print()
        if len(results.scenarios) > 1:
            console.print(Text(printable(case.name or case.scenario.request), style="bold"))
        _show(console, case, width)
    if not all(alone(case) for case in cases(results)):
        console.print(Text(LEGEND, style="dim"))
    return "\n".join(line.rstrip() for line in handle.getvalue().splitlines()) + "\n"


def _show(console: Console, case: Case, width: int) -> None:
    """The answer and the table of one scenario."""
    from rich.text import Text

    summary = answer(case)
    console.print(Text(printable(summary.headline), style="bold"))
    for sentence in summary.sentences:
        console.print(Text(printable(sentence)))
    for warning in summary.warnings:
        console.print(Text(f"! {printable(warning)}", style="yellow"))
    if case.scenario.ladder is not None:
        console.print(_rungs(case.scenario.ladder))
    columns, left_out = _columns(case, width)
    console.print(_table(case, columns))
    if left_out:
        console.print(Text(f"(no room for: {', '.join(left_out)}; see the page)"))
    if case.scenario.watched:
        console.print(Text(printable(watched(case.scenario.watched)), style="dim"))


def _rungs(found: Ladder) -> Table:
    """The ladder: a line for every rung."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ladder.HEADING:
        table.add_column(name, justify="right" if name in ("expected", "cost") else "left", overflow="fold")
    for cells in ladder.rows(found):
        table.add_row(*[Text(printable(cell)) for cell in cells])
    return table


def to_csv(results: Results) -> str:
    """One line per value; a model without values (it failed) keeps a line with its error."""
    lines = []
    for case in results.scenarios:
        for row in case.subjects:
            about = {"run": results.id, "scenario": case.name, **_about(row)}
            lines += [{**about, **values} for values in _values(row.evidence)]
    return csv_text(lines)


def _about(row: Row) -> dict[str, object]:
    return {"subject": row.name, "label": row.label, "method": row.method, "variant": row.variant, "role": row.role,
            "seed": row.seed, "conclusion": row.conclusion.verdict, "seconds": row.cost.seconds, "error": row.error,
            "hiding": row.hiding.verdict if row.hiding else None}


def _values(evidence: Sequence[Measurement]) -> Iterator[dict[str, object]]:
    """The columns of every value; empty ones of a model without values."""
    summary: list[Measurement | None] = [*evidence]
    for item in summary or [None]:
        yard = item.yardstick if item else None
        yield {**{key: getattr(item, key, None) for key in KEPT},
               **{f"yardstick_{key}": getattr(yard, key, None) for key in YARDSTICK}}


@dataclass(frozen=True)
class Shown:
    """A column of the table: two lines of heading, and the text and colour of every cell."""

    name: str
    below: str
    cells: list[tuple[str, str]]

    @property
    def width(self) -> int:
        """Letters that it takes, with the space beside it."""
        return 3 + max(len(self.name), len(self.below), *(len(text) for text, _ in self.cells))


def _columns(case: Case, width: int) -> tuple[list[Shown], list[str]]:
    """The columns that have room, and the names of those that have none: the three answers first, then the main metrics."""
    lines = case.lines
    for less in range(5):   # what is left out first where it is narrow: intervals, tests, the controls' labels, limits
        test = less < 2
        first = Shown("model", "", [(printable(line.label if less < 3 else line.name), "") for line in lines])
        shown = [first, *_replies(case, less < 1, test, less < 4)]
        last = Shown("time", "", [_time(line, test) for line in lines])
        if not lines or sum(column.width for column in (*shown, last)) <= width:
            break
    left_out = [what for step, what in LESS if lines and step <= less]
    room = width - sum(column.width for column in (*shown, last)) if lines else width
    whole = [*shown, last]
    while room < 0 and len(whole) > 2:   # still too narrow: the time, then how like retraining, then how useful
        gone = whole.pop()
        room += gone.width
        left_out.append(gone.name)
    full = len(whole) <= len(shown)
    for made in (_metric(case, column) for column in case.main):
        if full or room < made.width:
            full = True
            left_out.append(made.name)
        else:
            room -= made.width
            whole.insert(len(whole) - 1, made)
    return whole, left_out


def _replies(case: Case, interval: bool, test: bool, why: bool) -> list[Shown]:
    """The columns of the three answers, as much of them as there is room for; none where pictures alone give the answer."""
    if alone(case):
        return []
    lines, most = case.lines, limit(case)
    told = [(f"{DONE[case.goes]}?", "test and limit" if why else "", [
                (_forgotten(line, test) if why else f"{MARKS[line.forgotten.answer]} {line.forgotten.answer}",
                 line.forgotten.answer) for line in lines]),
            (f"useful? {unit(case) if why else ''}".strip(), f"to −{most}" if most else "", [
                (useful_cell(line.useful, interval), line.useful.answer) for line in lines]),
            ("as retraining?", "test and limit" if test else "", [(like(line.like, test), line.like.answer) for line in lines])]
    return [Shown(name, below, [_told(line, *cell, why if place == 0 else None) for line, cell in zip(lines, cells, strict=True)])
            for place, (name, below, cells) in enumerate(told)]


def _forgotten(line: Line, traits: bool) -> str:
    """The first answer; that a run ended early is said however narrow it is."""
    return forgotten(line, traits) + ("; ended early" if line.fall and not traits else "")


def _told(line: Line, text: str, answer: str, why: bool | None) -> tuple[str, str]:
    """A cell of an answer; of a method that gave no model why not: in a few words, in one (false), nothing (None)."""
    if line.verdict != FAILED:
        return printable(text), TONES.get(answer, "")
    words = printable(briefly(line))
    return ("–", "") if why is None else (words if why else words.partition(":")[0], "red")


def _time(line: Line, seconds: bool) -> tuple[str, str]:
    """The cell of the time: in seconds and beside one retraining, or only the latter where there is one."""
    ratio = f"{number(line.ratio)}×" if line.ratio else ""
    return (f"{duration(line.seconds)}{f' ({ratio})' if ratio else ''}" if seconds or not ratio else ratio), ""


def _metric(case: Case, column: Column) -> Shown:
    """The column of one metric."""
    cells = []
    for line in case.lines:
        cell = line.cells.get(column.key)
        mark = sign(cell.verdict, cell.side).split(" ")[0] if cell else ""
        cells.append((f"{number(cell.value)} {mark}".strip() if cell else "–", COLOURS.get(cell.verdict, "") if cell else ""))
    return Shown(spaced(printable(column.metric)), limits(column), cells)


def _table(case: Case, columns: Sequence[Shown]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        side: Literal["left", "right"] = "right" if column.name == "time" else "left"
        table.add_column(Text(f"{column.name}\n{column.below}".rstrip()), no_wrap=True, justify=side)
    for place, line in enumerate(case.lines):
        ends = line.role != "method" and (place + 1 == len(case.lines) or case.lines[place + 1].role == "method")
        cells = [column.cells[place] for column in columns]
        table.add_row(*[Text(text, style=style) for text, style in cells], end_section=ends)
    return table
