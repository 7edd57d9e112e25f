"""How often a method gave what a request asks for, by the numbers of `lethe bench`. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lethe.results.ladder import Until
from lethe.results.measured import Number, read

UNKNOWN, WEIGHT = 0.1, 2.0   # chance of a method of which nothing is known, and how many runs this is worth    [ours]
ALL_GONE = 0.02              # score of retrained models on the forget set below which all of a class left      [ours]
AS_MEASURED = {"regression": "r2", "fitted_regressor": "r2"}   # family -> what the suites keep in place of its own score


@dataclass(frozen=True)
class Odds:
    """passed of runs on requests like this one. prior: its chance by all other requests."""

    passed: float = 0.0
    runs: int = 0
    prior: float = UNKNOWN

    @property
    def chance(self) -> float:
        """The mean of the posterior: little known is near the prior."""
        return (self.passed + WEIGHT * self.prior) / (self.runs + WEIGHT)


def odds(method: str, until: Until, family: str, score: str, leaves: bool, place: Path | None = None, exact: bool = False
         ) -> Odds:
    """What was measured of a method on problems of the same score in which a class leaves, or does not, as here.

    score   of the family
    leaves  whether nothing like the forget set is retained      place  the folder of the numbers, when it is not the usual one
    exact   its model never reads the forget set, so that only its use is in question
    """
    problems: dict[str, dict[str, Number]] = {}
    for number in read(method, place).numbers:
        problems.setdefault(number.problem, {})[number.metric] = number
    judged = [found for found in problems.values() if "forgotten" in found]
    alike = [found for found in judged if _alike(found, AS_MEASURED.get(family, score), leaves)]
    asked = ("indistinguishable",) if until == "indistinguishable" else ("useful",) if exact else ("forgotten", "useful")
    elsewhere = Odds(*_counted([found for found in judged if found not in alike], asked))
    return Odds(*_counted(alike, asked), elsewhere.chance)


def _counted(problems: Sequence[Mapping[str, Number]], asked: tuple[str, ...]) -> tuple[float, int]:
    """(runs that were as requested, runs)."""
    return (sum(_passed(found, asked) for found in problems),
            sum(found["forgotten"].seeds + found["forgotten"].failed for found in problems))


def _alike(found: Mapping[str, Number], score: str, leaves: bool) -> bool:
    """Whether a problem is like a request."""
    forget = next((found[name] for name in (f"forget_{score}", f"{score}_forget") if name in found), None)
    return forget is not None and leaves == (forget.retrained is not None and abs(forget.retrained) <= ALL_GONE)


def _passed(found: Mapping[str, Number], asked: tuple[str, ...]) -> float:
    """Runs that were as requested. Where two answers are asked for, no more than had the rarer one."""
    return min((found[name].mean or 0.0) * found[name].seeds if name in found else 0.0 for name in asked)
