"""The answer to a scenario in plain words: what came out, what failed, whether the two controls behaved, what to doubt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from lethe.core.evidence import FAILED, INSIDE, NO_POWER, NO_YARDSTICK, OUTSIDE, Ending
from lethe.report.view import Case, Line
from lethe.report.words import listed, number

SMALL = 30   # examples of the forget set below which its loss of power is announced
Level = Literal["good", "bad", "mixed", "none"]
ALONE: dict[Ending, str] = {   # of a single method
    INSIDE: "no test detects a difference from models retrained without the data.",
    OUTSIDE: "the tests detect a difference from models retrained without the data.",
    FAILED: "the method failed, so there is no model.",
    NO_POWER: "no answer, because these tests do not detect the data in the untouched model either.",
    NO_YARDSTICK: "no verdict, because there is no retrained model to compare with.",
}
SEVERAL: tuple[tuple[Ending, str, str], ...] = (   # verdict, of one, of more
    (OUTSIDE, "left a detectable difference", "left a detectable difference"),
    (NO_POWER, "could not be judged: the tests had no power", "could not be judged: the tests had no power"),
    (NO_YARDSTICK, "had nothing to be compared with", "had nothing to be compared with"),
    (FAILED, "failed", "failed"),
)


@dataclass(frozen=True)
class Answer:
    """The outcome of a scenario in plain words. level: decides the colour of the box."""

    headline: str
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    level: Level


def answer(case: Case) -> Answer:
    """What came out, what failed, and whether the two controls behaved."""
    good, count = case.named(INSIDE), len(case.methods)
    headline = _headline(case)
    sentences = list(_quickest(case))
    sentences += [case.methods[0].text] if count == 1 and case.methods[0].text else []
    sentences += _others(case) if count > 1 else []
    if case.control("original") == OUTSIDE and case.control("retrained") == INSIDE:
        sentences.append("Check of the tests: they detect the untouched model, as they must, and do not detect a freshly "
                         "retrained one.")
    bad = case.named(OUTSIDE) or case.named(FAILED)
    level: Level = "none" if not count else "good" if len(good) == count else "mixed" if good else "bad" if bad else "none"
    return Answer(headline, tuple(sentences), tuple(_warnings(case)), level)


def _headline(case: Case) -> str:
    good, detected, unclear, count = case.named(INSIDE), case.named(OUTSIDE), case.named(NO_POWER), len(case.methods)
    if not count:
        return "No method was run."
    if count == 1:
        return f"{case.methods[0].label}: {ALONE[case.methods[0].verdict]}"
    if good:
        some = f"{len(good)} of {count} methods" if len(good) < count else f"All {count} methods"
        return f"{some} left no detectable difference from retraining: {listed(good)}."
    if len(case.named(NO_YARDSTICK)) == count:
        return "No verdict: there is no retrained model to compare with."
    if detected and unclear:
        return (f"{len(detected)} of {count} methods left a detectable difference from retraining; {len(unclear)} cannot be "
                "judged.")
    if detected:
        some = f"{len(detected)} of {count} methods" if len(detected) < count else "Every method"
        return f"{some} left a detectable difference from retraining."
    return "No method can be judged by these tests."


def _others(case: Case) -> Iterator[str]:
    """One sentence for each verdict that some methods share."""
    for verdict, one, more in SEVERAL:
        names = case.named(verdict)
        if names and not (verdict in (OUTSIDE, NO_YARDSTICK) and len(names) == len(case.methods)):   # the headline states it
            yield f"{listed(names)} {one if len(names) == 1 else more}."


def _quickest(case: Case) -> Iterator[str]:
    """What the quickest method took that nothing was found against."""
    ratios = {line.label: line.ratio for line in case.methods if line.verdict == INSIDE and line.ratio is not None}
    if ratios:
        fastest = min(ratios, key=lambda label: ratios[label])
        which = f"The quickest of them, {fastest}," if len(ratios) > 1 else "It"
        yield f"{which} took {number(round(100 * ratios[fastest], 1))} % of the time of training again from scratch."


def _warnings(case: Case) -> Iterator[str]:
    yield from _of_the_controls(case)
    for doubt in case.scenario.doubts:
        yield f"The yardstick is doubtful: {doubt.text}"
    for line in case.methods:
        if line.suspected and line.hiding is not None:
            yield f"{line.label}: {line.hiding.text}"
        for row in line.defects:
            yield (f"{row.name} failed by a defect, not by a limit that it names"
                   f"{f'; the traceback is in {row.log}' if row.log else ''}.")
    for entry in case.scenario.not_tested:
        if entry.defect:
            yield f"The audit {entry.title} failed by a defect{f'; the traceback is in {entry.log}' if entry.log else ''}."
    yield from _of_the_sizes(case.scenario.sizes)
    alarms = case.scenario.false_alarms
    if alarms and alarms.outside > 0.25 * alarms.of:
        yield f"{alarms.outside} of {alarms.of} retrained models are detected when held against the others."


def _of_the_controls(case: Case) -> Iterator[str]:
    if not case.references:
        yield f"No reference models: {case.scenario.references.reason or 'none were retrained'}."
    elif case.control("original") not in (OUTSIDE, None):
        yield ("The tests do not detect the untouched model either. They would not find the data even where nothing was "
               "removed, so their silence proves little.")
    if case.control("retrained") == OUTSIDE:
        yield ("The tests detect a freshly retrained model, too, which was trained without the data. Read single 'outside' "
               "verdicts with care.")


def _of_the_sizes(sizes: Mapping[str, int]) -> Iterator[str]:
    if lopsided(sizes):
        yield lopsided(sizes)
    size = sizes.get("forget")
    if size is not None and size < SMALL:
        yield (f"The forget set has {size} {'example' if size == 1 else 'examples'}: a share measured on it is known to ±"
               f"{number(min(1.0, 0.98 / size**0.5))} at best, so only gross traces can be found.")


def lopsided(sizes: Mapping[str, int]) -> str:
    """A warning when more is to be forgotten than to be kept; '' otherwise."""
    forget, retain = sizes.get("forget", 0), sizes.get("retain")
    if retain is None or forget <= retain:
        return ""
    return (f"More is to be forgotten ({forget} examples) than to be kept ({retain}): methods are made for the opposite, and the "
            "model may lose what it should keep. Compare with retraining, which costs less here; check that forget is not the "
            "wrong way round.")


def expected(line: Line) -> str:
    """Whether a control behaves: the original must be detected, the retrained model must not."""
    wanted = {"original": OUTSIDE, "retrained": INSIDE}.get(line.role)
    if wanted is None or line.verdict == NO_YARDSTICK:
        return ""
    return "as it must be" if line.verdict == wanted else "though it should not be"
