"""From the results dictionary to what is shown: rows, columns, cells, and the answer in plain words.

Rows that differ only in their seed (`salun seed 0`, `salun seed 1`) become one row: mean and range over seeds, and the
worst verdict. Original and retrained model always come first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lethe.core.evidence import INSIDE, NO_POWER, NO_YARDSTICK, OUTSIDE, SHOWN
from lethe.report.words import FAILED, SEVERITY, listed, number, spaced

NAMES = {"original": "original (do nothing)", "retrained": "retrained (reference)"}
SUSPECTED = "obfuscation suspected"
SMALL = 30   # examples of the forget set below which its loss of power is announced
FORGETTING, UTILITY = 4, 2   # main metrics shown of each tier
Key = tuple[str, str]        # audit, metric


@dataclass(frozen=True)
class Cell:
    """One metric of one row. Over several seeds: the mean, its range, and the worst verdict."""

    value: float | None
    low: float | None
    high: float | None
    n: int | None
    verdict: str
    side: str
    items: tuple[Mapping[str, Any], ...]
    seeds: int = 1


@dataclass(frozen=True)
class Column:
    """One metric with its yardstick and the value of the untouched model."""

    audit: str
    metric: str
    tier: str
    better: str
    definition: str
    version: int
    bounds: tuple[float | None, float | None]
    yardstick: Mapping[str, Any] | None
    original: float | None
    powered: bool | None      # whether the untouched model lies outside the yardstick; None where that is unknown
    judged: bool              # False: reported, never held against the yardstick

    @property
    def key(self) -> Key:
        return self.audit, self.metric

    @property
    def band(self) -> tuple[float | None, float | None]:
        """The yardstick's interval as it is shown: not beyond what the metric can be."""
        if not self.yardstick:
            return None, None
        low, high = self.yardstick["low"], self.yardstick["high"]
        return (low if self.bounds[0] is None else max(low, self.bounds[0]),
                high if self.bounds[1] is None else min(high, self.bounds[1]))


@dataclass
class Row:
    """A method (all its seeds), the original or the retrained model."""

    name: str
    role: str
    members: list[Mapping[str, Any]]
    cells: dict[Key, Cell]
    ratio: float | None = None    # cost beside one retraining

    @property
    def label(self) -> str:
        return NAMES.get(self.role, self.name) if self.role in NAMES and self.name == self.role else self.name

    @property
    def verdict(self) -> str:
        return max((m["conclusion"]["verdict"] for m in self.members), key=_severity)

    @property
    def text(self) -> str:
        """What the audits say, of the member with the worst verdict; how many seeds agree."""
        worst = next(m for m in self.members if m["conclusion"]["verdict"] == self.verdict)
        count = sum(m["conclusion"]["verdict"] == self.verdict for m in self.members)
        seeds = f"{count} of {len(self.members)} seeds: " if len(self.members) > 1 else ""
        return seeds + str(worst["conclusion"].get("text") or worst.get("error") or "")

    @property
    def seconds(self) -> float | None:
        known = [s for s in ((m.get("cost") or {}).get("seconds") for m in self.members) if s is not None]
        return sum(known) / len(known) if known else None

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(str(note) for m in self.members for note in m.get("notes") or []))

    @property
    def kind(self) -> str:
        return str(self.members[0].get("kind") or "weights")

    @property
    def hiding(self) -> Mapping[str, Any]:
        """Whether it only hides: {verdict, text}; of the seed that is suspected, else of the first."""
        known = [m["hiding"] for m in self.members if m.get("hiding")]
        return next((h for h in known if h["verdict"] == SUSPECTED), known[0] if known else {})

    @property
    def equality(self) -> str:
        """What the equivalence tests say, in words; '' where none was possible."""
        tested = [item for cell in self.cells.values() for item in cell.items if item.get("smallest_margin") is not None]
        asked = [item for item in tested if item.get("margin") is not None]
        if not asked:
            return ""
        close = [_margin(item) for item in asked if item["equivalent"]]
        far = [f"{_margin(item)}, would need ±{number(item['smallest_margin'])}" for item in asked if not item["equivalent"]]
        said = [f"Shown to be within the declared margin: {listed(close)}"] if close else []
        return ". ".join(said + ([f"Not shown to be within the declared margin: {listed(far)}"] if far else []))


@dataclass
class Case:
    """A scenario: one request on one model, and every row and column of it."""

    raw: Mapping[str, Any]
    rows: list[Row]
    columns: dict[Key, Column] = field(default_factory=dict)

    @cached_property
    def methods(self) -> list[Row]:
        return [row for row in self.rows if row.role == "method"]

    @property
    def name(self) -> str:
        return str(self.raw.get("name") or "")

    @property
    def references(self) -> int:
        return int((self.raw.get("references") or {}).get("count") or 0)

    def named(self, verdict: str) -> list[str]:
        """Labels of the methods with a verdict."""
        return [row.label for row in self.methods if row.verdict == verdict]

    def control(self, role: str) -> str | None:
        """The verdict on the original or on the retrained model; None when there is no such row."""
        return next((row.verdict for row in self.rows if row.role == role), None)

    @cached_property
    def main(self) -> list[Column]:
        """The few metrics of the overview: the score first, then one of each audit, those with power first."""
        score = self.raw.get("score_name") or "accuracy"
        chosen = _main(self.columns.values(), "forgetting", [f"forget_{score}"], FORGETTING)
        return chosen + _main(self.columns.values(), "utility", [f"test_{score}", f"holdout_{score}",
                                                                    f"retain_{score}"], UTILITY)

    def first(self, tier: str) -> Column | None:
        """The leading main metric of a tier; of forgetting the first with power, which is decided by the controls."""
        mine = [column for column in self.main if column.tier == tier]
        strong = [column for column in mine if tier != "forgetting" or column.powered is not False]
        return next(iter(strong or mine), None)


@dataclass(frozen=True)
class Answer:
    """The outcome of a scenario in plain words. level: good | bad | mixed | none (decides the colour of the box)."""

    headline: str
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    level: str


def cases(results: Mapping[str, Any]) -> list[Case]:
    """Every scenario, ready to be shown."""
    return [_case(raw) for raw in results.get("scenarios", [])]


def answer(case: Case) -> Answer:
    """What came out, what failed, and whether the two controls behaved."""
    good, count = case.named(INSIDE), len(case.methods)
    if count == 1:
        headline, sentences = _alone(case.methods[0])
    elif not count:
        headline, sentences = "No method was run.", []
    elif good:
        some = f"{len(good)} of {count} methods" if len(good) < count else f"All {count} methods"
        headline = f"{some} gave a model that was not told apart from one that never saw the data: {listed(good)}."
        sentences = []
    elif all(row.verdict == NO_YARDSTICK for row in case.methods):
        headline, sentences = "No verdict: there is no retrained model to compare with.", []
    elif case.named(OUTSIDE) and case.named(NO_POWER):
        told = len(case.named(OUTSIDE))
        headline = f"{told} of {count} methods gave a model that was told apart; {len(case.named(NO_POWER))} cannot be judged."
        sentences = []
    elif case.named(OUTSIDE):
        headline = "No method gave a model that could not be told apart from one that never saw the data."
        sentences = []
    else:
        headline, sentences = "No method can be judged by these tests.", []
    if count > 1:
        for verdict, words in ((OUTSIDE, "told apart"), (NO_POWER, "could not be judged: the tests had no power"),
                               (NO_YARDSTICK, "had nothing to be compared with"), (FAILED, "failed")):
            names = case.named(verdict)
            if names and not (verdict == NO_YARDSTICK and len(names) == count):
                verb = ("was " if len(names) == 1 else "were ") if verdict == OUTSIDE else ""
                sentences.append(f"{listed(names)} {verb}{words}.")
    quick = [row for row in case.methods if row.verdict == INSIDE and row.ratio is not None]
    if quick:
        fastest = min(quick, key=lambda row: row.ratio or 0.0)
        which = f"The quickest of them, {fastest.label}," if len(quick) > 1 else "It"
        percent = number(round(100 * (fastest.ratio or 0.0), 1))
        sentences.insert(0, f"{which} took {percent} % of the time of training again from scratch.")
    if case.control("original") == OUTSIDE and case.control("retrained") == INSIDE:
        sentences.append("Check of the tests: the untouched model was told apart, as it must be; a freshly retrained "
                         "one was not.")
    level = ("good" if len(good) == count else "mixed" if good else "bad" if case.named(OUTSIDE) or case.named(FAILED)
             else "none")
    return Answer(headline, tuple(sentences), tuple(_warnings(case)), level if count else "none")


def _alone(row: Row) -> tuple[str, list[str]]:
    ending = {INSIDE: "this model was not told apart from one that never saw the data.",
              OUTSIDE: "this model was told apart from one that never saw the data.",
              FAILED: "the method failed, so there is no model.",
              NO_POWER: "no answer, because these tests would not have found the data in the untouched model either.",
              NO_YARDSTICK: "no verdict, because there is no retrained model to compare with."}
    return f"{row.label}: {ending.get(row.verdict, row.verdict)}", [row.text] if row.text else []


def _warnings(case: Case) -> Iterable[str]:
    if not case.references:
        reason = (case.raw.get("references") or {}).get("reason")
        yield f"No reference models: {reason or 'none were retrained'}."
    elif case.control("original") not in (OUTSIDE, None):
        yield ("The untouched model was not told apart either. These tests would not have found the data even where "
               "nothing was removed, so what they say proves little.")
    if case.control("retrained") == OUTSIDE:
        yield ("A freshly retrained model, which never saw the data, was told apart as well. Read single 'outside' "
               "verdicts with care.")
    for doubt in case.raw.get("doubts") or []:
        yield f"The yardstick is doubtful: {doubt['text']}"
    for row in case.methods:
        if row.hiding.get("verdict") == SUSPECTED:
            yield f"{row.label}: {row.hiding['text']}"
    sizes = case.raw.get("sizes") or {}
    if lopsided(sizes):
        yield lopsided(sizes)
    size = sizes.get("forget")
    if size is not None and size < SMALL:
        yield (f"The forget set has {size} {'example' if size == 1 else 'examples'}: a share measured on it is known to ±"
               f"{number(min(1.0, 0.98 / size**0.5))} at best, so only gross traces can be found.")
    alarms = case.raw.get("false_alarms")
    if alarms and alarms.get("of") and alarms["outside"] > 0.25 * alarms["of"]:
        yield f"{alarms['outside']} of {alarms['of']} retrained models were told apart from the others."


def lopsided(sizes: Mapping[str, int]) -> str:
    """A warning when more is to be forgotten than to be kept; '' otherwise."""
    forget, retain = sizes.get("forget", 0), sizes.get("retain")
    if retain is None or forget <= retain:
        return ""
    return (f"More is to be forgotten ({forget} examples) than to be kept ({retain}): methods are made for the opposite, and the "
            "model may lose what it should keep. Compare with retraining, which costs less here; check that forget is not the "
            "wrong way round.")


def _case(raw: Mapping[str, Any]) -> Case:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for subject in raw.get("subjects", []):
        name, role = str(subject["name"]), str(subject.get("role"))
        name = re.sub(r" seed \d+$", "", name) if role == "method" else name
        groups.setdefault((role, name), []).append(subject)
    columns: dict[Key, Column] = {}
    for subject in raw.get("subjects", []):
        for item in subject.get("evidence") or []:
            columns.setdefault((item["audit"], item["metric"]), _column(item))
    rows = [Row(name, role, members, _cells(members)) for (role, name), members in groups.items()]
    retraining = next((row.seconds for row in rows if row.role == "retrained" and row.seconds), None)
    retraining = retraining or (raw.get("references") or {}).get("seconds_each")
    for row in rows:
        if retraining and row.seconds is not None:
            row.ratio = row.seconds / retraining
    place = {"original": 0, "retrained": 1}
    rows.sort(key=lambda row: (place.get(row.role, 2), _severity(row.verdict), _far(row), row.seconds or 0.0))
    return Case(raw, rows, columns)


def _margin(item: Mapping[str, Any]) -> str:
    return f"{spaced(item['metric'])} ±{number(item['margin'])}"


def _column(item: Mapping[str, Any]) -> Column:
    low, high = item.get("range") or (None, None)
    return Column(item["audit"], item["metric"], item.get("tier", ""), item.get("better", ""),
                  item.get("definition", ""), item.get("version", 1), (low, high), item.get("yardstick"),
                  item.get("original"), item.get("original_outside"), item.get("verdict") != SHOWN)


def _cells(members: list[Mapping[str, Any]]) -> dict[Key, Cell]:
    found: dict[Key, list[Mapping[str, Any]]] = {}
    for member in members:
        for item in member.get("evidence") or []:
            found.setdefault((item["audit"], item["metric"]), []).append(item)
    return {key: _cell(items) for key, items in found.items()}


def _cell(items: list[Mapping[str, Any]]) -> Cell:
    first = max(items, key=lambda item: _severity(item["verdict"]))
    values = [item["value"] for item in items if item["value"] is not None]
    if len(items) == 1:
        return Cell(first["value"], first.get("low"), first.get("high"), first.get("n"), first["verdict"],
                    first.get("side") or "", (first,))
    mean = sum(values) / len(values) if values else None
    return Cell(mean, min(values, default=None), max(values, default=None), first.get("n"), first["verdict"],
                first.get("side") or "", tuple(items), len(items))


def _main(columns: Iterable[Column], tier: str, wanted: list[str], limit: int) -> list[Column]:
    mine = [c for c in columns if c.tier == tier]
    mine.sort(key=lambda c: (wanted.index(c.metric) if c.metric in wanted else len(wanted), not c.judged,
                             c.powered is False, not c.metric.startswith(c.audit)))
    leading = {c.audit: c for c in reversed(mine)}
    front = [c for c in mine if c.metric in wanted or leading[c.audit] is c]
    return (front + [c for c in mine if c not in front])[:limit]


def _severity(verdict: str) -> int:
    return SEVERITY.index(verdict) if verdict in SEVERITY else -1


def _far(row: Row) -> int:
    return sum(cell.verdict == OUTSIDE for cell in row.cells.values())


def expected(row: Row) -> str:
    """Whether a control behaves: the original must be told apart, the retrained model must not."""
    wanted = {"original": OUTSIDE, "retrained": INSIDE}.get(row.role)
    if wanted is None or row.verdict == NO_YARDSTICK:
        return ""
    return "as it must be" if row.verdict == wanted else "though it should not be"
