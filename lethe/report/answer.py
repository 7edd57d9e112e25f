"""The answer to a scenario in plain words: what came out, what failed, whether the two controls behaved, what to doubt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lethe.core.evidence import FAILED, INSIDE, NO_YARDSTICK, OUTSIDE
from lethe.core.words import number
from lethe.report.ended import sentences
from lethe.report.ladder import told
from lethe.report.pictures import GONE, Pictures, alone, of_retraining, percent, pictures, share
from lethe.report.recommend import DONE, Recommendation, recommendation
from lethe.report.view import Case, Line
from lethe.report.words import listed
from lethe.results.answered import remedy
from lethe.results.yardstick import Power

SMALL = 30   # examples of the forget set below which its loss of power is announced
Level = Literal["good", "bad", "mixed", "none"]


@dataclass(frozen=True)
class Answer:
    """The outcome of a scenario in plain words. level: decides the colour of the box."""

    headline: str
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    level: Level
    recommended: Recommendation


def answer(case: Case) -> Answer:
    """The row to take or what it lacks, how the others answer, what failed, and whether the two controls behaved."""
    found, ladder = recommendation(case), case.scenario.ladder
    policy = case.scenario.policy
    sentences = [*([f"Run {policy.told}."] if policy is not None else []),
                 *([told(ladder, case.references, _useful(case))] if ladder is not None else []), *_counts(case)]
    if case.control("original") == OUTSIDE and case.control("retrained") == INSIDE:
        sentences.append("Check of the tests: they detect the untouched model, as they must, and do not detect a freshly "
                         "retrained one.")
    if case.scenario.power is not None and case.scenario.power.smallest is not None:
        sentences.append(f"What they see: {sees(case.scenario.power)}.")
    unjudged = policy is not None and not case.references
    sentences += dict.fromkeys(how for line in case.methods if (how := remedy(line.forgotten.why)) and not unjudged)
    seen = pictures(case)
    if seen is not None:
        return _pictured(case, seen, found, sentences)
    headline = "By policy; this model was not judged against retrained ones itself." if unjudged else found.text
    return Answer(headline, tuple(sentences), tuple(_warnings(case)), _level(case, found), found)


def _useful(case: Case) -> bool:
    """Whether what a ladder delivered is shown to be useful."""
    ladder = case.scenario.ladder
    delivered = [row for line in case.methods for row in line.members if ladder is not None and row.name == ladder.delivered]
    return all(row.answers is None or row.answers.useful.answer == "yes" for row in delivered)


def _pictured(case: Case, seen: Pictures, found: Recommendation, sentences: Sequence[str]) -> Answer:
    """The answer where pictures give it; where nothing was retrained, nothing is said of retrained models."""
    others = [f"{line.label}: gone in {percent(share(line, GONE))}" for line in seen.lines
              if line.role == "method" and line is not seen.best]
    lead = [seen.sentence, *([f"Other methods: {', '.join(others)}; all of them side by side below."] if others else [])]
    if not alone(case):
        return Answer(seen.headline, (*lead, found.text, *sentences), tuple(_warnings(case)), _level(case, found), found)
    failed = list(_failures(case))
    doubts = [one for one in _warnings(case) if not of_retraining(one)]
    return Answer(seen.headline, (*lead, *failed), tuple(doubts), seen.level, Recommendation(None, (), seen.headline))


def sees(power: Power) -> str:
    """The dose and its response: 'a model that kept 25 % of the forget set (15 examples) is detected in 7 of 8 mixtures, …'."""
    first, *others = power.doses
    more = [f"with {100 * dose.share:.0f} % in {dose.detected} of {dose.of}" for dose in others]
    tried = (f"a model that kept {100 * first.share:.0f} % of the forget set ({first.records} examples) is detected in "
             f"{first.detected} of {first.of} mixtures of answers")
    return ", ".join([tried, *more])


def _level(case: Case, found: Recommendation) -> Level:
    if found.line is not None and not found.missing:
        return "good"
    replies = [line.forgotten.answer for line in case.methods]
    lost = "no" in replies or len(case.named(FAILED)) == len(case.methods) > 0
    return "mixed" if "yes" in replies else "bad" if lost else "none"


def _counts(case: Case) -> Iterator[str]:
    """How many methods have each of the three answers, and why others gave no model."""
    lines = [line for line in case.methods if line.verdict != FAILED]
    if len(case.methods) > 1 and lines:
        done = DONE[case.goes].replace("suppressed", "suppressed it")
        columns = (("have", done, [line.forgotten.answer for line in lines]),
                   ("are", "useful", [line.useful.answer for line in lines]),
                   ("are", "indistinguishable from retraining", [line.like.answer for line in lines]))
        told = [_count(*column) for column in columns if any(reply != "cannot be judged" for reply in column[2])]
        if told:
            yield f"Of {len(case.methods)} methods {', '.join(told)}."
    yield from _failures(case)


def _failures(case: Case) -> Iterator[str]:
    yield from sentences([line for line in case.methods if line.verdict == FAILED])


def _count(verb: str, what: str, replies: Sequence[str]) -> str:
    """'3 are useful'; how many of them could not be judged, if any."""
    yes, open_ = replies.count("yes"), replies.count("cannot be judged")
    does = {"have": "has", "are": "is"}[verb] if yes == 1 else verb
    return f"{yes} {does} {what}{f' ({open_} cannot be judged)' if open_ else ''}"


def _warnings(case: Case) -> Iterator[str]:
    yield from _of_the_controls(case)
    for doubt in case.scenario.doubts:
        yield f"The yardstick is doubtful: {doubt.text}"
    hiding = [line for line in case.methods if line.suspected and line.hiding is not None]
    if len(hiding) == 1 and hiding[0].hiding is not None:
        yield f"{hiding[0].label}: {hiding[0].hiding.text}"
    elif hiding:
        yield (f"{listed([line.label for line in hiding])} may only hide the data: their answers do not show the forget set, but "
               "tests of representation or recovery find it.")
    for line in case.methods:
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
    elif case.control("original") not in (OUTSIDE, None) and "yes" in {line.forgotten.answer for line in case.methods}:
        yield ("The tests do not detect the untouched model either. They would not find the data even where nothing was "
               "removed, so their silence proves little.")
    power = case.scenario.power
    if power is not None and power.smallest is None:
        yield (f"The tests of answers would not see half of the forget set left in training: {sees(power)}. Their silence proves "
               "little; more retrained models or a larger forget set see more.")
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
