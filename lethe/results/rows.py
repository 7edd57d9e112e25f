"""One scenario's records from the auditor's findings: the rows of its models, its margins, and what the audits could use."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lethe.core.config import plain
from lethe.core.evidence import Access, Evidence, Role
from lethe.core.outcome import Outcome
from lethe.core.registry import Audit
from lethe.errors import OutOfRange, UnknownKey, nearest
from lethe.judge.conclusions import conclude
from lethe.judge.hiding import hiding
from lethe.judge.power import Power
from lethe.judge.yardstick import Doubt, FalseAlarms
from lethe.results import schema, yardstick
from lethe.results.answered import LARGE, record

if TYPE_CHECKING:
    from lethe.core.task import Task
    from lethe.judge.descent import Kinship


def row(name: str, role: Role, items: Sequence[Evidence], *, label: str = "", method: str = "", variant: int = 1,
        seed: int | None = None, run: Outcome | None = None, cost: schema.Cost = schema.Cost(), error: str | None = None,
        defect: bool = False, log: str | None = None, samples: Sequence[Mapping[str, Any]] = (), score: str = "score",
        margin: float = LARGE, references: int = 0) -> schema.Row:
    """One model: its answers, its conclusion, whether it hides, and every value.

    name     names the row within its scenario             label   what rows that differ only in their seed share (default: name)
    run      what the method returned                      cost    of a model without one (a retrained model)
    score    what the family's score is called             margin  the largest loss of it that does not matter
    references  how many retrained models there are to compare with
    error    why there is no model; `defect`: not by a LetheError; `log`: the file that holds its traceback
    """
    ending = schema.Conclusion(verdict="failed", text=error) if error else _conclusion(items, run, references)
    kind = run.kind if run else "weights"
    found = hiding(items, kind) if role == "method" and not error else None
    return schema.Row(
        name=name, label=label or name, method=method, variant=variant, seed=seed, role=role, kind=kind,
        config=plain(run.config) if run else {},
        cost=schema.Cost(**plain(run.cost)) if run else cost,
        notes=tuple(run.notes) if run else (), error=error, defect=defect, log=log,
        fall=schema.Fall(**plain(run.fall)) if run and run.fall else None, unchanged=run.unchanged if run else False,
        guarantee=plain(run.guarantee) if run else {}, conclusion=ending,
        answers=None if error else record(items, score, margin, references),
        hiding=None if found is None else schema.Hiding(**plain(found)),
        evidence=tuple(measurement(item) for item in items),
        samples=tuple(_sample(one) for one in samples),
        search=tuple(schema.Trial(**trial) for trial in run.search) if run else (),
    )


def measurement(item: Evidence) -> schema.Measurement:
    """The record of one value: without per-example values, its histogram apart from the other details."""
    same = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)
            if field.name not in ("per_sample", "detail", "yardstick", "law")}
    detail = dict(item.detail)
    histogram = detail.pop("histogram", None)
    return schema.Measurement(
        **same, detail=plain(detail), histogram=None if histogram is None else schema.Histogram(**histogram),
        yardstick=None if item.yardstick is None else schema.Yardstick(**dataclasses.asdict(item.yardstick)))


def _sample(one: Mapping[str, Any]) -> schema.Sample:
    return schema.ImageSample(**one) if one["kind"] == "image" else schema.TextSample(**one)


def _conclusion(items: Sequence[Evidence], run: Outcome | None, references: int) -> schema.Conclusion:
    found, fall = conclude(items, references), run.fall if run else None
    ended = "" if fall is None else f"Ended by the watchdog: the model of step {fall.kept} of {fall.step}. "
    return schema.Conclusion(verdict=found.verdict, text=ended + found.text)


def declared(audits: Sequence[tuple[Audit, Any]], asked: Mapping[str, float]) -> schema.Declared:
    """The equivalence margins, written down before any model is examined: metric (or pattern) -> margin.

    asked  margins of the request, by metric; they override those that the metrics declare
    """
    names = {name: metric.margin for audit, _ in audits for name, metric in audit.metrics.items()}
    for name, margin in asked.items():
        if not any(fnmatch.fnmatch(name, known) for known in names):
            raise UnknownKey(f"audit.margins names {name!r}, which no audit of this request reports{nearest(name, names)}, so "
                             "nothing was started. lethe audits lists the metrics.")
        if not margin > 0:
            raise OutOfRange(f"audit.margins.{name} = {margin}: two models never agree to within that, so nothing was started. "
                             "Choose a margin above 0, in the unit of the metric.")
    own = {name: margin for name, margin in names.items() if margin is not None}
    return schema.Declared(at=datetime.now(UTC).isoformat(timespec="seconds"), margins={**own, **asked})


def access(task: Task, references: int, audits: Sequence[tuple[Audit, Any]], shadows: bool) -> Access:
    """What the audits could use: L0 the unlearned model alone, L1 and the original, L2 and models trained anew (retrained or
    shadows), L3 and canaries planted in training."""
    used = {need for audit, _ in audits for need in audit.needs}
    if any(audit.name == "canary" for audit, _ in audits):
        return "L3"
    if references or (shadows and "shadows" in used):
        return "L2"
    return "L1" if task.has("original") else "L0"


def doubt(found: Doubt) -> yardstick.Doubt:
    """The record of a reason to doubt the yardstick."""
    return yardstick.Doubt(**plain(found))


def alarms(found: FalseAlarms | None) -> yardstick.FalseAlarms | None:
    """The record of the tests applied to the references."""
    return None if found is None else yardstick.FalseAlarms(**plain(found))


def power(found: Power | None) -> yardstick.Power | None:
    """The record of what the tests would have seen."""
    return None if found is None else yardstick.Power(**plain(found))


def descent(kin: Mapping[str, Kinship]) -> tuple[yardstick.Descent, ...]:
    """The record of how near models are to the original, by path."""
    return tuple(yardstick.Descent(model=path, distance=near.distance, units=near.units, chance=near.chance, based=near.based,
                                   close=near.close) for path, near in kin.items())
