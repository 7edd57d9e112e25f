"""The overview table for a paper or an issue: Markdown and LaTeX, with the recommended row before it."""

from __future__ import annotations

from typing import Literal

from lethe.core.evidence import FAILED
from lethe.core.words import number
from lethe.report.ended import briefly
from lethe.report.recommend import DONE, forgotten, like, recommendation, useful_cell
from lethe.report.view import Case, Line, cases
from lethe.report.words import duration, printable
from lethe.results.schema import Results

Format = Literal["md", "latex"]
LATEX = {"\\": r"\textbackslash{}", **{c: "\\" + c for c in "&%$#_{}"}, "~": r"$\sim$", "^": r"\^{}", "✓": r"$\checkmark$",
         "✗": r"$\times$", "○": r"$\circ$", "−": "$-$", "×": r"$\times$", ">": "$>$", "<": "$<$", "–": "--", "\u202f": r"\,"}


def table_text(results: Results, form: Format) -> str:
    """Every scenario: its recommended row, and a table of the three answers and the time of each model."""
    return "\n".join((_markdown if form == "md" else _latex)(case) for case in cases(results))


def _rows(case: Case) -> tuple[list[str], list[list[str]]]:
    head = ["model", f"{DONE[case.goes]}?", "useful?", "as retraining?", "time"]
    return head, [[printable(line.label), *_answers(line), _time(line)] for line in case.lines]


def _answers(line: Line) -> list[str]:
    if line.verdict == FAILED:
        return [briefly(line), "no model", "no model"]
    return [forgotten(line), useful_cell(line.useful), like(line.like)]


def _time(line: Line) -> str:
    return duration(line.seconds) + (f" ({number(line.ratio)}×)" if line.ratio else "")


def _markdown(case: Case) -> str:
    head, rows = _rows(case)
    lines = [f"**{_plain(recommendation(case).text)}**", "", _bar(head), _bar(["---"] * len(head)), *map(_bar, rows)]
    return "\n".join([*([f"### {_plain(case.name)}", ""] if case.name else []), *lines, ""])


def _bar(cells: list[str]) -> str:
    return f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """Without what Markdown would read as markup."""
    return " ".join(printable(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _latex(case: Case) -> str:
    head, rows = _rows(case)
    body = [" & ".join(map(_escaped, row)) + r" \\" for row in rows]
    return "\n".join([f"% {' '.join(printable(recommendation(case).text).split())}", r"\begin{tabular}{" + "l" * len(head) + "}",
                      r"\hline", " & ".join(map(_escaped, head)) + r" \\", r"\hline", *body, r"\hline", r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in " ".join(printable(text).split()))
