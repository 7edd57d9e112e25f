"""One test of a model over all its metrics, calibrated on the references: is its largest deviation larger than theirs?

Each reference is held against the others in every metric. The smallest p-value that it has in an aspect (its largest studentised
deviation) says how many tests the aspect has in effect, however they depend on each other; in those units the aspects are
joined, and the smallest of all is judged by the law that the references show (`lethe.maths.extremes`). One level of p for each
aspect follows, and with it one band for each metric, the same for every model.

Where there are fewer than eight references, or none, tests are counted instead (Bonferroni over those of a tier, times tiers):
one odd reference of six lowers the level from 10⁻³ to 10⁻⁴, behind which a model that only hides what it knows is not seen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lethe.core.evidence import Evidence
from lethe.judge.answers import Part, part_of
from lethe.maths.extremes import FEWEST, Smallest, effective_tests, exceedance

LEVEL = 0.05      # of the joint verdict on a model
ENOUGH = 8        # references from which the law is used
RESERVE = 1.6     # chances are multiplied by this: the law holds in the mean over yardsticks; with it, it holds for most of them


@dataclass(frozen=True)
class Family:
    """All tests of a model as one.

    tests  of each aspect, in effect     law  of the smallest exceedance times tests; None: tests are counted
    """

    tests: Mapping[Part, float]
    law: Smallest | None = None

    def joint(self, part: Part, p: float) -> float:
        """The p-value of the whole model if this is its smallest: never below p itself."""
        if self.law is None:
            return min(1.0, self.tests[part] * p)
        return min(1.0, max(p, RESERVE * self.law.chance(self.tests[part] * float(exceedance(p)))))

    def level(self, part: Part) -> float:
        """The p-value of one test of the aspect at which the whole model's is `LEVEL`."""
        if self.law is None:
            return LEVEL / self.tests[part]
        return min(LEVEL, -math.expm1(-self.law.below(LEVEL / RESERVE) / self.tests[part]))


ALONE = Family({"behaviour": 1.0, "representation": 1.0, "recovery": 1.0, "utility": 1.0})   # the only test


def counted(items: Sequence[Evidence]) -> Family:
    """The family by the number of judged tests: those of the tier, times the judged tiers."""
    tests = {(e.audit, e.metric): e for e in items if e.p is not None}.values()
    tiers = Counter(e.tier for e in tests)
    return Family({part_of(e): float(len(tiers) * tiers[e.tier]) for e in tests})


def calibrated(references: Sequence[Sequence[Evidence]], every: Sequence[Evidence]) -> Family:
    """The family from the evidence on references, each against the others; by counting where they are too few.

    every  the evidence on all models: aspects in which no reference was tested are counted
    """
    table = [smallest for items in references if (smallest := _smallest(items))]
    count = counted(every)
    if len(table) < ENOUGH:
        return count
    columns = {part: [row[part] for row in table if part in row] for part in count.tests}
    tests = {part: effective_tests(p) if len(p) >= FEWEST else count.tests[part] for part, p in columns.items()}
    seen = []
    for row in table:   # a reference counts in units to which it did not contribute
        others = {part: list(p) for part, p in columns.items()}
        for part, p in row.items():
            others[part].remove(p)
        seen.append(min((effective_tests(others[part]) if len(others[part]) >= FEWEST - 1 else tests[part])
                        * float(exceedance(p)) for part, p in row.items()))
    return Family(tests, Smallest(tuple(seen)))


def _smallest(items: Sequence[Evidence]) -> dict[Part, float]:
    """aspect -> the smallest p-value in it. Where the others agree to the last digit a deviation has no size, so it says nothing
    about those of other metrics."""
    found: dict[Part, float] = {}
    for e in items:
        if e.p is not None and e.yardstick is not None and len(set(e.yardstick.values)) > 1:
            found[part_of(e)] = min(e.p, found.get(part_of(e), 1.0))
    return found
