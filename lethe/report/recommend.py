"""The row to take: forgotten, useful within the margin, like retraining where one is, cheapest; else the nearest, and what it
lacks. The answers in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lethe.core.evidence import FAILED, INSIDE, RETRAINED, YardstickKind
from lethe.core.words import number, spaced
from lethe.report.view import Case, Line
from lethe.results.answers import Decisive, Indistinguishable, Useful

MARKS = {"yes": "✓", "no": "✗", "not shown": "~", "cannot be judged": "○"}
MEANS = {"records": "the influence of these records", "concept": "a concept, with relatives that were not listed",
         "behaviour": "a behaviour, which is suppressed rather than removed"}
COMPARED: dict[YardstickKind, str] = {"retrained": "retrained models", "holdout": "models to which the data are unseen",
                                      "rashomon": "models as good as the untouched one"}
DONE = {"records": "forgotten", "concept": "forgotten", "behaviour": "suppressed"}


@dataclass(frozen=True)
class Recommendation:
    """line: the row, None: there is none to name. missing: what it lacks; empty where it is recommended."""

    line: Line | None
    missing: tuple[str, ...]
    text: str


def recommendation(case: Case) -> Recommendation:
    """The recommended row of a scenario, in one line."""
    able = sorted((line for line in case.methods if line.verdict != FAILED), key=lambda line: line.order)
    if not able:
        why = (f"{case.methods[0].label} gave no model" if len(case.methods) == 1 else
               "no method gave a model" if case.methods else
               "no method was run" if case.scenario.ladder is None else "no method of the ladder was tried")
        return Recommendation(None, (why,), f"Recommended: none; {why}.")
    first = able[0]
    done = DONE[case.scenario.goes(first.members)]
    lacks = tuple(_lacks(first, done))
    if not lacks:
        return Recommendation(first, (), f"Recommended: {first.label} ({brief(first, done)})")
    if all(line.forgotten.answer == "cannot be judged" for line in able):
        return Recommendation(None, lacks, f"Recommended: none; whether anything was {done} cannot be judged: "
                                           f"{first.forgotten.why}.")
    return Recommendation(first, lacks, f"Recommended: none. Nearest: {first.label} ({brief(first, done)}). "
                                        f"It lacks: {'; '.join(lacks)}.")


def brief(line: Line, done: str = "forgotten") -> str:
    """'forgotten: yes, 12 tests; useful: −0.8 points; 0.28 × a retraining'."""
    parts = [f"{done}: {_reply(line)}", f"useful: {useful(line.useful)}"]
    if line.ratio is not None:
        parts.append(f"{number(line.ratio)} × a retraining")
    return "; ".join(parts)


def forgotten(line: Line, traits: bool = True) -> str:
    """'✓ yes, 12 tests'; '✗ no: relearn 0.71 > 0.59'; with what else was noticed: conspicuous, hiding."""
    found = line.forgotten
    words: str = found.answer
    if found.answer == "yes":
        words = _reply(line)
    elif found.answer == "no" and found.test is not None:
        words = f"no: {_guarded(line) or beside(found.test)}"
    odd = line.conspicuous is not None and line.role == "method"
    noticed = [word for word, so in (("conspicuous", odd), ("hides?", line.suspected), ("ended early", line.fall is not None))
               if so and traits]
    return "; ".join([f"{MARKS[found.answer]} {words}", *noticed])


def useful(found: Useful) -> str:
    """'−0.8 points'; in the unit of the score where it has no points."""
    if found.lost is None:
        return "not known"
    return f"{change(found, -found.lost)}{' points' if found.points else f' {spaced(found.metric)}'}"


def useful_cell(found: Useful, interval: bool = True) -> str:
    """'✓ −0.8 (−1.7 to +0.1)', in points where the score has them."""
    if found.lost is None:
        return f"{MARKS[found.answer]} not known"
    known = interval and found.low is not None and found.high is not None
    ends = f" ({change(found, -(found.high or 0.0))} to {change(found, -(found.low or 0.0))})" if known else ""
    return f"{MARKS[found.answer]} {change(found, -found.lost)}{ends}"


def like(found: Indistinguishable, test: bool = True) -> str:
    """'✓ yes, 14 tests'; '✗ 5 of 14: JS forget 0.49 > 0.14'."""
    if found.answer == "no" and found.test is not None:
        return f"✗ {found.outside} of {found.tests}{f': {beside(found.test)}' if test else ''}"
    return f"{MARKS[found.answer]} {found.answer}{f', {found.tests} tests' if found.answer == 'yes' else ''}"


def beside(test: Decisive) -> str:
    """'relearn 0.71 > 0.59': a value and the end of the band that it passed."""
    words = f"{spaced(test.metric)} {number(test.value)}"
    low, high = test.low, test.high
    if test.size is None or test.value is None:
        return words
    sign, end = (">", high) if test.size > 0 and high is not None else ("<", low)
    if end is None:
        return words
    if number(end) == number(test.value):   # so near that three digits do not show which is larger
        return f"{spaced(test.metric)} {test.value:.6g} {sign} {end:.6g}".replace("-", "−")
    return f"{words} {sign} {number(end)}"


def power(test: Decisive, line: Line) -> str:
    """What the test that decided found, and what it would have found."""
    parts = [f"{spaced(test.metric)} is {number(test.value)}"]
    if test.size is not None:
        parts.append(f"{number(abs(test.size))} {'above' if test.size >= 0 else 'below'} "
                     f"the mean of {compared(line, test)}" if test.size else f"as {compared(line, test)} on average")
    if test.share is not None and test.share > 0:
        parts.append(f"{number(round(100 * test.share))} % of what the untouched model shows")
    if test.detectable is not None:
        parts.append(f"a difference of {number(test.detectable)} would have been seen")
    return "; ".join(parts)


def compared(line: Line, test: Decisive | None) -> str:
    """What a test compares with: retrained models, or a weaker yardstick."""
    cell = None if test is None else line.cells.get((test.audit, test.metric))
    yard = next((item.yardstick for item in cell.items if item.yardstick is not None), None) if cell else None
    return COMPARED[yard.kind if yard else RETRAINED]


def change(found: Useful, value: float) -> str:
    """A change of the score with its sign: in points where it has them."""
    scaled = 100 * value if found.points else value
    text = f"{round(scaled, 1) + 0.0:.1f}" if found.points else number(scaled)
    return ("+" if scaled > 0 and not text.startswith("−") else "") + text.replace("-", "−")


def unit(case: Case) -> str:
    """What the change of the score is counted in: points, or the score itself."""
    first = next((line.useful for line in case.lines if line.useful.metric), None)
    return "" if first is None else "points" if first.points else spaced(first.metric)


def margin(found: Useful) -> str:
    """The largest loss that was declared not to matter."""
    if found.margin is None:
        return ""
    return f"{100 * found.margin:g} point{'' if 100 * found.margin == 1 else 's'}" if found.points else number(found.margin)


def limit(case: Case) -> str:
    """The largest loss that was declared not to matter, of any row that has one."""
    return next((margin(line.useful) for line in case.lines if line.useful.margin is not None), "")


def _reply(line: Line) -> str:
    found = line.forgotten
    if found.answer != "yes":
        return found.answer
    return f"yes, {found.tests} {'test' if found.tests == 1 else 'tests'}" if found.tests else "yes, made without the data"


def _guarded(line: Line) -> str:
    """Of a guard, what it did at most; '' for other kinds, and where answers show the forget set through it."""
    if line.kind != "guard" or line.hiding is None or line.hiding.metrics:
        return ""
    tested = any(item.tier == "forgetting" and item.aspect == "behaviour" and item.verdict == INSIDE
                 for cell in line.cells.values() for item in cell.items)
    return "suppressed by a guard, never removed" if tested else "a guard: nothing was removed"


def _lacks(line: Line, done: str) -> list[str]:
    """What stands between a row and a recommendation."""
    found, cost = line.forgotten, line.useful
    lacks = []
    if found.answer == "no" and found.test is not None:
        lacks.append(_guarded(line) or f"not {done}: {beside(found.test)}, the limit of {compared(line, found.test)}")
    elif found.answer != "yes":
        lacks.append(f"{done} or not cannot be judged: {found.why}")
    if cost.answer == "no":
        lacks.append(f"lost {useful(cost).lstrip('−')}, declared: at most {margin(cost)}")
    elif cost.answer == "not shown":
        most = "unknown" if cost.high is None or not math.isfinite(cost.high) else change(cost, -cost.high).lstrip("−")
        lacks.append(f"it may have lost {most}{' points' if cost.points else ''}, declared: at most {margin(cost)}")
    elif cost.answer != "yes":
        lacks.append(cost.why)
    return lacks
