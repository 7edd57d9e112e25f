"""What the evidence on one model comes to: a verdict and one plain sentence. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lethe.core.evidence import (
    DIFFERS,
    HOLDOUT,
    INSIDE,
    NO_POWER,
    NO_YARDSTICK,
    NOT_EXAMINED,
    OUTSIDE,
    OVER_FORGOTTEN,
    RASHOMON,
    RETRAINED,
    SHOWN,
    STILL_KNOWS,
    Direction,
    Ending,
    Evidence,
    YardstickKind,
)
from lethe.core.words import limits, number, spaced
from lethe.judge.answers import far, kept

HAVE: dict[YardstickKind, str] = {
    RETRAINED: "retrained models have", HOLDOUT: "unseen data would have", RASHOMON: "models as good as the original have",
}

WEAK = "No retrained models, so no verdict on likeness to retraining"


@dataclass(frozen=True)
class Conclusion:
    """What the evidence on one model comes to: a verdict and one plain sentence."""

    verdict: Ending
    text: str


def conclude(items: Sequence[Evidence], references: int = 0) -> Conclusion:
    """The verdict on one model: forgetting outside, else utility outside, no yardstick, no power, or inside.

    'Inside' means that no test distinguished the model from retrained ones, which is not a proof that none could. Against weaker
    yardsticks alone the verdict is 'outside' or 'no yardstick', and the sentence states what was compared.
    references  how many retrained models there are
    """
    judged = [e for e in items if e.verdict != SHOWN and e.tier in ("forgetting", "utility")]
    if kept(items) is not None:
        return Conclusion(OUTSIDE, "Still knows the forget set: every number of the original is in this model.")
    forgetting = [e for e in judged if e.tier == "forgetting"]
    outside = [e for e in forgetting if e.verdict == OUTSIDE]
    worse = [e for e in judged if e.tier == "utility" and e.verdict == OUTSIDE]
    weak = any(e.kind in (HOLDOUT, RASHOMON) for e in judged)
    loss = f"Utility is worse than after retraining: {strongest(worse)}" if worse and not weak else ""
    loss = loss or (f"Utility is worse than that of models like the original: {strongest(worse)}" if worse else "")
    if outside:
        caution = " There are no retrained models: one might differ from this, too." if weak else ""
        return Conclusion(OUTSIDE, _direction(outside, len(forgetting)) + (f" {loss}." if loss else "") + caution)
    if worse:
        return Conclusion(OUTSIDE, f"{loss}; {_outside_none(forgetting)}.")
    if weak:
        return Conclusion(NO_YARDSTICK, _weaker(forgetting))
    if not forgetting:
        return Conclusion(NOT_EXAMINED, "Not examined: no test of forgetting was carried out on this model.")
    if not judged or all(e.verdict == NO_YARDSTICK for e in judged):
        none = f"Only {references} retrained" if references else "No retrained"
        models = "model" if references == 1 else "models"
        return Conclusion(NO_YARDSTICK, f"{none} {models} to compare with: the values are shown without a verdict.")
    inside = [e for e in forgetting if e.verdict == INSIDE]
    if not inside:
        return Conclusion(NO_POWER, _powerless(forgetting))
    few = sum(e.verdict == NO_POWER for e in forgetting)
    tail = f"; {few} more had not enough power" if few else ""
    return Conclusion(INSIDE, f"Indistinguishable from retrained models by the {len(inside)} tests of forgetting that "
                              f"detect the original{tail}; utility is not worse.")


def _weaker(forgetting: list[Evidence]) -> str:
    """What weaker yardsticks report of a model that none of them detected."""
    unseen = [e for e in forgetting if e.kind == HOLDOUT and e.verdict == INSIDE]
    blind = [e for e in forgetting if e.kind == HOLDOUT and e.verdict == NO_POWER]
    same = [e.metric for e in forgetting if e.kind == RASHOMON and e.verdict == NO_POWER]
    changed = [e.metric for e in forgetting if e.kind == RASHOMON and e.verdict == NO_YARDSTICK]
    clauses = [WEAK]
    if unseen:
        clauses.append(f"the forget set was indistinguishable from unseen data by {named([e.metric for e in unseen])}, which "
                    f"{'detects' if len(unseen) == 1 else 'detect'} it for the original")
    if blind and not unseen:
        clauses.append(f"{named([e.metric for e in blind])} had not enough power, even for the original")
    if same:
        clauses.append(f"not changed beyond what models as good as the original differ by: {named(same)}")
    if changed:
        clauses.append(f"changed by more than that, whether as by retraining is not known: {named(changed)}")
    return "; ".join(clauses) + "."


def _powerless(forgetting: list[Evidence]) -> str:
    """Why nothing is decided: the model lies between, or even the original is inside: the tests have no power, or the retrained
    models have seen the forget set."""
    if forgetting and all(e.original is None for e in forgetting):
        return ("Not enough power: without the untouched original nothing shows that these tests would detect the data. "
                "Provide the original.")
    if between := [e.metric for e in forgetting if e.original_outside]:   # beside one to three retrained models
        return (f"Not enough power: {named(between)}, by which the untouched original was detected, leaves open whether this "
                "model is nearer to it or to a retrained one. Provide more retrained models; eight make a band.")
    first = "Not enough power: no test of forgetting distinguished even the untouched original from retrained models. "
    if not forgetting:
        return first.strip()
    return first + ("Either these tests cannot see this forget set, or the 'retrained' models have seen it as well: compare "
                    "their scores on forget, retained and unseen data.")


def _direction(outside: list[Evidence], count: int) -> str:
    words: dict[Direction, str] = {STILL_KNOWS: "Still knows the forget set", DIFFERS: "Differs from retrained models",
                                   OVER_FORGOTTEN: "Over-forgotten, beyond what retraining does"}
    order: tuple[Direction, ...] = (STILL_KNOWS, OVER_FORGOTTEN, DIFFERS)
    if all(e.kind == HOLDOUT for e in outside):
        words[OVER_FORGOTTEN] = "The forget set stands out from unseen data, more than for the original"
    worst = next(d for d in order if any(e.direction == d for e in outside))
    these = [e for e in outside if e.direction == worst]
    told = f"{words[worst]}: {strongest(these)} ({len(outside)} of {count} tests of forgetting are outside)."
    if worst != DIFFERS or not any(e.unsided for e in these):
        return told
    return f"{told} Which way is not known: a model that never saw the data, trained otherwise, might lie there."


def strongest(items: list[Evidence]) -> str:
    """The item furthest from the yardstick in widths of its band, in words."""
    e = max(items, key=far)
    assert e.yardstick is not None
    return f"{spaced(e.metric)} is {number(e.value)}, {HAVE[e.yardstick.kind]} {_band(e)}"


def _band(e: Evidence) -> str:
    """The band that decides: '0.3 to 0.5', 'at most 0.5'."""
    assert e.yardstick is not None
    return limits(e.yardstick.low, e.yardstick.high, *e.range)


def _outside_none(forgetting: list[Evidence]) -> str:
    if any(e.kind in (HOLDOUT, RASHOMON) for e in forgetting):
        return _weaker(forgetting).rstrip(".").replace("No retrained", "no retrained", 1)
    inside = any(e.verdict == INSIDE for e in forgetting)
    return "forgetting is indistinguishable from retraining" if inside else "the tests of forgetting had not enough power"


def named(names: Sequence[str]) -> str:
    """Metrics as a person reads them: 'a, b and c'; of more than four the first three and a count."""
    shown = [spaced(name) for name in names] if len(names) <= 4 else [*map(spaced, names[:3]), f"{len(names) - 3} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)

