"""A ladder in words: what was tried and what it came to. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from lethe.core.words import number
from lethe.report.words import duration
from lethe.results.ladder import Ladder, Rung

SILENT = (" Whether it is useful was not asked: these data do not show it of a retrained model either. More unseen data would, "
          "or a larger loss that does not matter (audit.max_loss).")
HEADING = ("", "method", "expected", "cost", "outcome on the search's part of the data")


def told(ladder: Ladder, references: int, useful: bool = True) -> str:
    """What was delivered and what finding it did cost; or what is not met, and what retraining would cost.

    useful  whether the unseen data show it of what is delivered
    """
    if not ladder.met:
        return ladder.why
    goal = f"forgotten{' and useful' if useful else ''}" if ladder.until == "forgotten" else "indistinguishable from retraining"
    exact = any(rung.row == ladder.delivered and rung.mechanism == "exact" for rung in ladder.rungs)
    what = f"{ladder.delivered}, which never read the forgotten data, is delivered" if exact else (
        f"{ladder.delivered} is {goal}, and is delivered")
    return f"Ladder: {what}.{'' if useful else SILENT} {seen(ladder)} {spent(ladder, references)}"


def seen(ladder: Ladder) -> str:
    """Which data judged the rungs, and which the result."""
    if ladder.overlap:
        return (f"The {ladder.overlap} forgotten examples are too few to be divided, so they have judged the tries, too; the "
                f"unseen data are other ones.{looked(ladder)}")
    return ("The tries were judged on one half of the forget set and unseen data that methods may see, the result on the other "
            f"half and other unseen data.{looked(ladder)}")


def looked(ladder: Ladder) -> str:
    """That these data have judged more than one model; '' where they have not."""
    refuted = [rung.row for rung in ladder.rungs if rung.ended == "refuted"]
    if not refuted or ladder.looks < 2:
        return ""
    return (f" These have judged {ladder.looks} models in turn and refuted {', '.join(refuted)}: of several models one may pass "
            "by chance, so this result is weaker than that of a single look.")


def spent(ladder: Ladder, references: int) -> str:
    """What the search did cost."""
    tried = [rung for rung in ladder.rungs if rung.cost is not None]
    judging = "" if ladder.judging_seconds is None else f", and {duration(ladder.judging_seconds)} of judging"
    count = f"{len(tried)} {'method' if len(tried) == 1 else 'methods'}"
    return (f"The search took {number(ladder.spent)} of a retraining's steps or examples, whichever is more (allowed: "
            f"{number(ladder.within)}), on {count}{judging}. The {references} retrained models of the yardstick are not counted: "
            "they are paid for once and judge every request on these data.")


def rows(ladder: Ladder) -> Sequence[tuple[str, ...]]:
    """A line for every rung: place, method, expected and real cost, outcome."""
    return [(str(place), f"{rung.row} ({rung.mechanism})", number(rung.expected), number(rung.cost), outcome(rung))
            for place, rung in enumerate(ladder.rungs, start=1)]


def outcome(rung: Rung) -> str:
    """'not reached: forgotten: no (relearn 0.71 > 0.59)'."""
    return f"{rung.ended}: {rung.why}" if rung.why else rung.ended


def record(rung: Rung) -> str:
    """Why it was given its chance."""
    known = f"as requested in {rung.passed} of {rung.runs} measured runs" if rung.runs else "not measured on requests like this"
    return "exact" if rung.mechanism == "exact" else known
