"""Is the concept gone from the pictures? What the page of an image generator leads with, from the audit `erasure`.

    disk gone in 91 % of pictures (limit 84 %), neighbours 85 %, out of scope 88 %

gone: pictures for prompts with the concept that do not show it. Limit: the same of what the untouched model draws without a
prompt, which a method that only makes the words meaningless cannot pass. Neighbours: kept prompts, out of scope: prompts that no
method saw; share of pictures that show what was asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lethe.core.evidence import FAILED
from lethe.report.view import PICTURED, Case, Line
from lethe.results.schema import Sample

AUDIT = PICTURED[0][0]
GONE, NEAR, OTHER, FAR, REST = (metric for _, metric in PICTURED)
EMPTY = "prevalence"
COLUMNS = {   # metric -> the heading of its column, and what it counts; the first three are UA, IRA and CRA of UnlearnCanvas
    GONE: ("Gone", "UA"), NEAR: ("Neighbours", "IRA"), OTHER: ("Their other attributes", "CRA"),
    FAR: ("Out of scope", "never named to a method"), REST: ("Rest of the prompt", "with the concept"),
}
ENOUGH, LOSS = 0.9, 0.03     # gone in so many pictures, and so much less of the others than of the untouched model: a good answer
GROUPS = {"erased": "With the concept", "neighbour": "Neighbours", "out of scope": "Out of scope",
          "no prompt": "Without a prompt"}


@dataclass(frozen=True)
class Pictures:
    """What was seen in the pictures of every model.

    concept  its words       best   the method to look at first; None: no method gave a model       limit  share, None: not
    measured """

    concept: str
    lines: tuple[Line, ...]
    best: Line | None
    limit: float | None

    @property
    def headline(self) -> str:
        """The answer in one line."""
        if self.best is None:
            return f"{self.concept}: no method gave a model."
        parts = [f"{self.concept} gone in {percent(share(self.best, GONE))} of pictures"
                 f"{f' (limit {percent(self.limit)})' if self.limit is not None else ''}"]
        parts += [f"{word} {percent(share(self.best, metric))}" for metric, word in ((NEAR, "neighbours"), (FAR, "out of scope"))
                  if share(self.best, metric) is not None]
        return f"{self.best.label}: {', '.join(parts)}."

    @property
    def sentence(self) -> str:
        """What the untouched model shows, and what the limit is."""
        untouched = _untouched(self.lines)
        told = []
        if untouched is not None:
            seen = [f"{word} {percent(share(untouched, metric))}" for metric, word in
                    ((GONE, "gone in"), (NEAR, "neighbours"), (FAR, "out of scope")) if share(untouched, metric) is not None]
            told.append(f"Of the untouched model: {', '.join(seen)}.")
        if self.limit is not None:
            told.append("The limit is what it draws without a prompt: a method that only makes the words meaningless stays below "
                        "it.")
        return " ".join(told)

    @property
    def level(self) -> Literal["good", "bad", "mixed"]:
        """Good: gone in 90 % and neither neighbours nor the rest lost more than 3 points; bad: gone in less than half."""
        untouched = _untouched(self.lines)
        gone = share(self.best, GONE)
        if self.best is None or gone is None or gone < 0.5:
            return "bad"
        lost = [(share(untouched, metric) or 0.0) - (share(self.best, metric) or 0.0) for metric in (NEAR, FAR)
                if share(self.best, metric) is not None]
        return "good" if gone >= ENOUGH and all(one <= LOSS for one in lost) else "mixed"

    @property
    def shown(self) -> list[str]:
        """The metrics that were measured, in the order of the columns."""
        return [metric for metric in COLUMNS if any(share(line, metric) is not None for line in self.lines)]


def pictures(case: Case) -> Pictures | None:
    """What the pictures of a scenario show; None where it is no image generator or nothing was looked at."""
    if (AUDIT, GONE) not in case.columns:
        return None
    lines = tuple(line for line in case.lines if line.verdict != FAILED)
    untouched = _untouched(lines)
    empty = share(untouched, EMPTY)
    able = [line for line in lines if line.role == "method" and share(line, GONE) is not None]
    best = max(able, key=lambda line: _worth(line, untouched), default=None)
    words = str(case.scenario.facts.get("concept") or "the concept")
    return Pictures(words, lines, best, None if empty is None else 1 - empty)


def alone(case: Case) -> bool:
    """Whether the answer stands on pictures alone: nothing was retrained, so nothing is said of retrained models."""
    retrained = any(column.retrained for column in case.columns.values())
    return not case.references and not retrained and pictures(case) is not None


def of_retraining(text: str) -> bool:
    """Whether a sentence speaks of retrained models, which is left out where there are none."""
    return re.search("retrain|reference", text) is not None


def share(line: Line | None, metric: str) -> float | None:
    """A value of the audit, of one line; the mean over its seeds."""
    cell = None if line is None else line.cells.get((AUDIT, metric))
    return None if cell is None else cell.value


def percent(value: float | None) -> str:
    """'91 %'; '–' for nothing."""
    return "–" if value is None else f"{100 * value:.0f} %"


def _untouched(lines: Sequence[Line]) -> Line | None:
    return next((line for line in lines if line.role == "original"), None)


def _worth(line: Line, untouched: Line | None) -> float:
    """The least of: gone, and the shares of what the untouched model kept of neighbours and of the rest."""
    kept = []
    for metric in (NEAR, FAR):
        now, before = share(line, metric), share(untouched, metric)
        if now is not None and before:
            kept.append(now / before)
    return min([share(line, GONE) or 0.0, *kept])


@dataclass(frozen=True)
class Drawn:
    """One prompt of the grid: its pictures from every model, at equal seeds; of the untouched one first."""

    group: str
    caption: str
    cells: tuple[str, ...]


def grid(gallery: Sequence[tuple[Line, tuple[Sample, ...]]]) -> tuple[list[str], list[Drawn]]:
    """(names of the models, prompts with their pictures) of all methods side by side."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for line, samples in gallery:
        for one in samples:
            if one.kind == "image":
                cells = found.setdefault((GROUPS.get(one.split, one.split), one.caption), {})
                cells.setdefault("", one.before)
                cells[line.label] = one.after
    labels = [line.label for line, samples in gallery if any(one.kind == "image" for one in samples)]
    return labels, [Drawn(group, caption, tuple(cells.get(name, "") for name in ("", *labels)))
                    for (group, caption), cells in found.items()]
