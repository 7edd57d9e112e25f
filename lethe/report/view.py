"""From results to what is shown: lines, columns and cells.

Rows that differ only in their seed become one line: mean and range over seeds, and the worst verdict. The original and the
retrained model always come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lethe.core import words
from lethe.core.evidence import (
    FAILED,
    OBFUSCATION,
    RETRAINED,
    SHOWN,
    Better,
    Ending,
    Kind,
    Objective,
    Reply,
    Role,
    Side,
    Tier,
    Verdict,
)
from lethe.core.words import number, spaced
from lethe.report.words import SEVERITY, listed
from lethe.results.answered import answered
from lethe.results.answers import Answers, Decisive, Forgotten, Indistinguishable, Useful
from lethe.results.schema import Cost, Fall, Hiding, Measurement, Results, Row, Scenario, Yardstick

NAMES = {"original": "original (untouched)", "retrained": "retrained (reference)"}
PICTURED = tuple(("erasure", metric) for metric in (   # of an image generator: UA, IRA, CRA first
    "unlearning_accuracy", "kept_accuracy", "kept_other_accuracy", "outside_accuracy", "forget_other_accuracy"))
FORGETTING, UTILITY = 4, 2   # main metrics shown of each tier
Key = tuple[str, str]        # audit, metric
REPLIES: tuple[Reply, ...] = ("yes", "not shown", "cannot be judged", "no")   # from best to worst


@dataclass(frozen=True)
class Cell:
    """One metric of one line. Over several seeds: the mean, its range, and the worst verdict.

    items, rows  the values behind it, and the row of each
    """

    value: float | None
    low: float | None
    high: float | None
    n: int | None
    verdict: Verdict
    side: Side
    items: tuple[Measurement, ...]
    rows: tuple[Row, ...]

    @property
    def seeds(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Column:
    """One metric with its yardstick and the value of the untouched model."""

    audit: str
    metric: str
    tier: Tier
    better: Better
    definition: str
    version: int
    bounds: tuple[float | None, float | None]
    yardstick: Yardstick | None
    original: float | None
    powered: bool | None      # whether the untouched model lies outside the yardstick; None where that is unknown
    judged: bool              # False: reported, never held against the yardstick

    @property
    def key(self) -> Key:
        return self.audit, self.metric

    @property
    def retrained(self) -> bool:
        """Whether retrained models are its yardstick."""
        return self.yardstick is not None and self.yardstick.kind == RETRAINED

    @property
    def band(self) -> tuple[float | None, float | None]:
        """The yardstick's interval as shown: not beyond what the metric can be."""
        if self.yardstick is None:
            return None, None
        low, high = self.yardstick.low, self.yardstick.high
        floor, ceiling = self.bounds
        return (low if floor is None or low is None else max(low, floor),
                high if ceiling is None or high is None else min(high, ceiling))


@dataclass(frozen=True)
class Line:
    """A method (all its seeds), the original or the retrained model. ratio: cost beside one retraining."""

    name: str
    role: Role
    members: tuple[Row, ...]
    cells: dict[Key, Cell]
    answers: tuple[Answers, ...] = ()   # of the seeds that did not fail
    ratio: float | None = None

    @property
    def label(self) -> str:
        """The name as shown."""
        return NAMES.get(self.role, self.name) if self.name == self.role else self.name

    @property
    def verdict(self) -> Ending:
        """The worst over the seeds."""
        return max((row.conclusion.verdict for row in self.members), key=severity)

    @property
    def forgotten(self) -> Forgotten:
        """The worst answer over the seeds. Where no test can judge, a model made without the data has forgotten them."""
        found = max((one.forgotten for one in self.answers), key=lambda one: (REPLIES.index(one.answer), _share(one.test)),
                    default=Forgotten(answer="cannot be judged", why="there is no model"))
        exact = found.answer == "cannot be judged" and all(row.exact for row in self.members)
        return Forgotten(answer="yes", why=f"exactly: {self.members[0].guarantee['basis']}") if exact else found

    @property
    def useful(self) -> Useful:
        """The worst answer over the seeds."""
        return max((one.useful for one in self.answers), key=lambda one: (REPLIES.index(one.answer), one.lost or 0.0),
                   default=Useful(answer="cannot be judged", why="there is no model"))

    @property
    def like(self) -> Indistinguishable:
        """The worst answer over the seeds."""
        return max((one.indistinguishable for one in self.answers), key=lambda one: (REPLIES.index(one.answer), one.outside),
                   default=Indistinguishable(answer="cannot be judged", why="there is no model"))

    @property
    def conspicuous(self) -> Decisive | None:
        """The test in which a seed is unlike any model that never saw the data."""
        return next((one.conspicuous for one in self.answers if one.conspicuous is not None), None)

    @property
    def order(self) -> tuple[int, int, float, bool, float]:
        """Forgotten before useful before like retraining before cheap; of what is not forgotten, what shows least first."""
        left = _share(self.forgotten.test) if self.forgotten.answer == "no" else 0.0
        return (REPLIES.index(self.forgotten.answer), REPLIES.index(self.useful.answer), left, self.like.answer != "yes",
                self.seconds or 0.0)

    @property
    def text(self) -> str:
        """What the audits report, of the member with the worst verdict; how many seeds agree."""
        bad = [row for row in self.members if row.conclusion.verdict == self.verdict]
        seeds = f"{len(bad)} of {len(self.members)} seeds: " if len(self.members) > 1 else ""
        return seeds + (bad[0].conclusion.text or bad[0].error or "")

    @property
    def cost(self) -> Cost:
        """Mean times over the seeds; each null where that of no seed is known."""
        return Cost(seconds=_mean([row.cost.seconds for row in self.members]),
                    cpu_seconds=_mean([row.cost.cpu_seconds for row in self.members]))

    @property
    def seconds(self) -> float | None:
        """Mean wall time over the seeds."""
        return self.cost.seconds

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(note for row in self.members for note in row.notes))

    @property
    def fall(self) -> Fall | None:
        """Why the watchdog ended a run of it; None: it ended none."""
        return next((row.fall for row in self.members if row.fall is not None), None)

    @property
    def remarks(self) -> list[str]:
        """The notes that the conclusion does not tell already."""
        return [note for note in self.notes if note not in self.text]

    @property
    def kind(self) -> Kind:
        return self.members[0].kind

    @property
    def defects(self) -> list[Row]:
        """The members that failed by a defect of the method."""
        return [row for row in self.members if row.defect]

    @property
    def hiding(self) -> Hiding | None:
        """Whether it only hides: of the seed that is suspected, else of the first; None for the controls."""
        measured = [row.hiding for row in self.members if row.hiding is not None]
        return next((found for found in measured if found.verdict == OBFUSCATION), measured[0] if measured else None)

    @property
    def suspected(self) -> bool:
        return self.hiding is not None and self.hiding.verdict == OBFUSCATION

    @property
    def equality(self) -> str:
        """What the equivalence tests report, in words; '' where none was possible."""
        tested = [item for cell in self.cells.values() for item in cell.items
                 if item.smallest_margin is not None and item.margin is not None]
        close = [_margin(item) for item in tested if item.equivalent]
        far = [f"{_margin(item)}, would need ±{number(item.smallest_margin)}" for item in tested if not item.equivalent]
        sentences = [f"Shown to be within the declared margin: {listed(close)}"] if close else []
        return ". ".join(sentences + ([f"Not shown to be within the declared margin: {listed(far)}"] if far else []))


@dataclass(frozen=True)
class Case:
    """A scenario, every line and column of it."""

    scenario: Scenario
    lines: tuple[Line, ...]
    columns: dict[Key, Column]

    @cached_property
    def methods(self) -> list[Line]:
        return [line for line in self.lines if line.role == "method"]

    @property
    def name(self) -> str:
        return self.scenario.name

    @property
    def retraining(self) -> Cost:
        """What one retraining took: that of the fresh retrained model, else of the references in the mean."""
        fresh = next((line.cost for line in self.lines if line.role == "retrained" and line.seconds), None)
        return fresh or self.scenario.retraining

    @property
    def references(self) -> int:
        """How many retrained models form the yardstick."""
        return self.scenario.references.count

    @property
    def goes(self) -> Objective:
        """What is to go from all of its models."""
        return self.scenario.goes(self.scenario.subjects)

    def named(self, verdict: Ending) -> list[str]:
        """Labels of the methods with a verdict."""
        return [line.label for line in self.methods if line.verdict == verdict]

    def control(self, role: Role) -> Ending | None:
        """The verdict on the original or on the retrained model; None when there is no such line."""
        return next((line.verdict for line in self.lines if line.role == role), None)

    @cached_property
    def main(self) -> list[Column]:
        """The few metrics of the overview: the score first, then one of each audit, those with power first."""
        if pictured := [self.columns[key] for key in PICTURED if key in self.columns]:
            return pictured
        score = self.scenario.score_name
        chosen = _main(self.columns.values(), "forgetting", [f"forget_{score}"], FORGETTING)
        return chosen + _main(self.columns.values(), "utility", [f"{part}_{score}" for part in ("test", "holdout", "retain")],
                              UTILITY)

    def first(self, tier: Tier) -> Column | None:
        """The leading main metric of a tier; of forgetting the first with power, which is decided by the controls."""
        mine = [column for column in self.main if column.tier == tier]
        strong = [column for column in mine if tier != "forgetting" or column.powered is not False]
        return next(iter(strong or mine), None)


def limits(column: Column) -> str:
    """The band that decides, as a goal: '0.3 to 0.5', 'at most 0.5'."""
    if column.yardstick is None:
        return ""
    return words.limits(column.yardstick.low, column.yardstick.high, *column.bounds)


def cases(results: Results) -> list[Case]:
    """Every scenario, ready to be shown."""
    return [_case(scenario) for scenario in results.scenarios]


def severity(verdict: Ending | Verdict) -> int:
    """Place of a verdict from best to worst; −1 for what is only shown."""
    return SEVERITY.index(verdict) if verdict in SEVERITY else -1


def _case(scenario: Scenario) -> Case:
    groups: dict[tuple[Role, str], list[Row]] = {}
    columns: dict[Key, Column] = {}
    for row in scenario.subjects:
        groups.setdefault((row.role, row.label or row.name), []).append(row)
        for item in row.evidence:
            columns.setdefault(item.key, _column(item, bool(scenario.references.count)))
    lines = [Line(label, role, tuple(members), _cells(members),
                  tuple(told for row in members if (told := answered(row, scenario)) is not None))
             for (role, label), members in groups.items()]
    place = {"original": 0, "retrained": 1, "method": 2}
    lines.sort(key=lambda line: (place[line.role], line.verdict == FAILED, line.order))
    case = Case(scenario, tuple(lines), columns)
    return replace(case, lines=tuple(replace(line, ratio=line.cost.of(case.retraining)) for line in lines))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _margin(item: Measurement) -> str:
    return f"{spaced(item.metric)} ±{number(item.margin)}"


def _column(item: Measurement, retrained: bool) -> Column:
    """The column of a metric. Without retrained models to be like, more of the pictures without the concept is better."""
    better: Better = "higher" if item.key == PICTURED[0] and not retrained else item.better
    return Column(item.audit, item.metric, item.tier, better, item.definition, item.version, item.range, item.yardstick,
                  item.original, item.original_outside, item.verdict != SHOWN)


def _cells(members: Sequence[Row]) -> dict[Key, Cell]:
    found: dict[Key, list[tuple[Measurement, Row]]] = {}
    for row in members:
        for item in row.evidence:
            found.setdefault(item.key, []).append((item, row))
    return {key: _cell(tuple(item for item, _ in pairs), tuple(row for _, row in pairs)) for key, pairs in found.items()}


def _cell(items: tuple[Measurement, ...], rows: tuple[Row, ...]) -> Cell:
    worst = max(items, key=lambda item: severity(item.verdict))
    value, low, high = worst.value, worst.low, worst.high
    if len(items) > 1:
        values = [item.value for item in items if item.value is not None]
        value = sum(values) / len(values) if values else None
        low, high = min(values, default=None), max(values, default=None)
    return Cell(value, low, high, worst.n, worst.verdict, worst.side, items, rows)


def _main(columns: Iterable[Column], tier: Tier, wanted: list[str], limit: int) -> list[Column]:
    mine = [c for c in columns if c.tier == tier]
    mine.sort(key=lambda c: (wanted.index(c.metric) if c.metric in wanted else len(wanted), not c.judged,
                             c.powered is False, not c.metric.startswith(c.audit)))
    leading = {c.audit: c for c in reversed(mine)}
    front = [c for c in mine if c.metric in wanted or leading[c.audit] is c]
    return (front + [c for c in mine if c not in front])[:limit]


def _share(test: Decisive | None) -> float:
    """What is left of what the untouched model shows."""
    return 0.0 if test is None or test.share is None else test.share
