"""Is it gone, or only hidden? What behaviour, representation and recovery show together. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lethe.core.evidence import INSIDE, NOT_KNOWN, OBFUSCATION, OUTSIDE, STILL_KNOWS, Evidence, HidingVerdict, Kind
from lethe.judge.conclusions import named, strongest


@dataclass(frozen=True)
class Hiding:
    """Where the forgetting happened: weights | adapter | guard | obfuscation suspected | not known, and why."""

    verdict: HidingVerdict
    text: str
    metrics: tuple[str, ...] = ()


def hiding(items: Sequence[Evidence], kind: Kind = "weights") -> Hiding:
    """Whether the data are gone or only hidden, from what behaviour, representation and recovery show.

    kind  what the method states of its result: weights | adapter | guard
    Suspected: no test of behaviour finds the data, yet they are found in the representation or come back by recovery.
    """
    judged = [e for e in items if e.tier == "forgetting" and e.verdict in (INSIDE, OUTSIDE)]
    shows = [e.metric for e in judged if e.aspect == "behaviour" and e.direction == STILL_KNOWS]
    quiet = [e.metric for e in judged if e.aspect == "behaviour" and e.direction != STILL_KNOWS and not e.unsided]
    deeper = [e for e in judged if e.aspect in ("representation", "recovery")]
    recovered = [e for e in deeper if e.direction == STILL_KNOWS]
    if kind == "guard":
        through = f" Even with it the answers show the forget set ({named(shows)})." if shows else ""
        return Hiding("guard", "A filter at inference: the weights still know the forget set and show it without the filter."
                               f"{through}", tuple(shows))
    if kind == "adapter":
        return Hiding("adapter", "An add-on to unchanged weights: taking it off brings back everything.")
    if recovered and quiet and not shows:
        names = tuple(e.metric for e in recovered)
        restored = any(e.aspect == "recovery" for e in recovered)
        way = "comes back by recovery" if restored else "is still found in the representation"
        return Hiding(OBFUSCATION, f"Hiding suspected: the model's answers do not show the forget set, but it {way} "
                                   f"({strongest(recovered)}).", names)
    if shows:
        return Hiding(NOT_KNOWN, f"The model's answers still show the forget set ({named(shows)}), so nothing is hidden.",
                      tuple(shows))
    if unsure := [e.metric for e in judged if e.unsided]:
        return Hiding(NOT_KNOWN, f"Utility differs from that of retrained models, and {named(unsure)} may for that reason alone: "
                                 "whether anything is hidden is not known.")
    clear = tuple(e.metric for e in deeper if e.verdict == INSIDE)
    if quiet and clear and not recovered:
        return Hiding("weights", f"The change is in the weights: neither answers nor {named(clear)} bring the forget set back "
                                 "more than in retrained models.", clear)
    return Hiding(NOT_KNOWN, "No test of recovery or representation had a verdict, so data that are only hidden would not be "
                             "noticed.")
