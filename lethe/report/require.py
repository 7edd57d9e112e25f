"""Whether a model of every scenario meets what a command was required to reach; else one sentence that says why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lethe.core.evidence import FAILED
from lethe.core.words import number
from lethe.report.recommend import beside, useful
from lethe.report.view import cases
from lethe.results.answers import Forgotten, Indistinguishable, Useful
from lethe.results.schema import Results

Wanted = Literal["forgotten", "useful", "indistinguishable"]


def unmet(results: Results, wanted: Sequence[Wanted], max_loss: float | None = None) -> str:
    """'' where every scenario has a row that meets all; else which has none, and what its nearest row lacks.

    max_loss  the largest loss of the score, in its unit (0.01: one point): the upper end of the 95 % interval must not exceed it
    """
    for case in cases(results):
        lines = [line for line in case.methods if line.verdict != FAILED]
        short = [(line, found) for line in lines
                 if (found := lacks(line.forgotten, line.useful, line.like, wanted, max_loss))]
        if lines and len(short) < len(lines):
            continue
        where = f" of {case.name!r}" if case.name else ""
        if not lines:
            return f"Not reached: no model{where} was made."
        line, found = min(short, key=lambda pair: (len(pair[1]), pair[0].order))
        which = line.label if len(lines) == 1 else f"none of {len(lines)} models{where}, the nearest is {line.label}"
        return f"Not reached: {which}: {'; '.join(found)}."
    return ""


def lacks(forgotten: Forgotten, cost: Useful, like: Indistinguishable, wanted: Sequence[Wanted],
          max_loss: float | None = None) -> list[str]:
    """What three answers lack of what is wanted, each in a few words; empty where nothing."""
    found = []
    if "forgotten" in wanted and forgotten.answer != "yes":
        found.append(f"forgotten: {forgotten.answer} ({beside(forgotten.test) if forgotten.test else forgotten.why})")
    if "useful" in wanted and cost.answer != "yes":
        found.append(f"useful: {cost.answer} ({cost.why or useful(cost)})")
    if "indistinguishable" in wanted and like.answer != "yes":
        found.append(f"indistinguishable: {like.answer} ({beside(like.test) if like.test else like.why})")
    if max_loss is not None and (cost.high is None or cost.high > max_loss):
        most = "not known" if cost.high is None else f"up to {number(cost.high)}"
        found.append(f"the loss of {cost.metric or 'the score'} is {most}, allowed: {number(max_loss)}")
    return found
