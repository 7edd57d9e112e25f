"""One scenario as plain data: the rows of its models, and what the audit says of itself (margins, access, controls)."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from lethe.core.config import plain
from lethe.core.evidence import OUTSIDE, Evidence
from lethe.core.outcome import Outcome
from lethe.core.registry import Audit
from lethe.core.task import Task
from lethe.errors import OutOfRange, UnknownKey, nearest
from lethe.judge.conclusions import conclude
from lethe.judge.hiding import hiding
from lethe.judge.verdict import ENOUGH
from lethe.judge.yardstick import doubts
from lethe.maths.statistics import clopper_pearson
from lethe.pools.subject import Subject


def row(name: str, role: str, items: Sequence[Evidence], *, run: Outcome | None = None, seconds: float | None = None,
        error: str | None = None) -> dict[str, Any]:
    """One model: its conclusion, whether it hides, and every value."""
    evidence = []
    for item in items:
        data = item.as_dict()
        data["histogram"] = data["detail"].pop("histogram", None)
        evidence.append(data)
    ending = {"verdict": "failed", "text": error} if error else plain(conclude(items))
    kind = run.kind if run else "weights"
    return {
        "name": name, "role": role, "kind": kind, "config": run.config if run else {},
        "seed": run.config.get("settings", {}).get("seed") if run else None,
        "cost": plain(run.cost) if run else {"seconds": seconds}, "notes": list(run.notes) if run else [], "error": error,
        "guarantee": plain(run.guarantee) if run else {}, "conclusion": ending,
        "hiding": plain(hiding(items, kind)) if role == "method" and not error else None,
        "evidence": evidence, "samples": [], "search": list(run.search) if run else [],
    }


def declared(audits: Sequence[tuple[Audit, Any]], asked: Mapping[str, float]) -> dict[str, Any]:
    """The equivalence margins, written down before any model is looked at: metric (or pattern) -> margin.

    asked  margins of the request, by metric; they go before those that the metrics declare
    """
    names = {name: metric.margin for audit, _ in audits for name, metric in audit.metrics.items()}
    for name, margin in asked.items():
        if not any(fnmatch.fnmatch(name, known) for known in names):
            raise UnknownKey(f"audit.margins names {name!r}, which no audit of this request reports{nearest(name, names)}, so "
                             "nothing was started. lethe audits lists the metrics.")
        if not margin > 0:
            raise OutOfRange(f"audit.margins.{name} = {margin}: two models never agree to within that, so nothing was started. "
                             "Give a margin above 0, in the unit of the metric.")
    own = {name: margin for name, margin in names.items() if margin is not None}
    return {"at": datetime.now(UTC).isoformat(timespec="seconds"), "margins": {**own, **asked}}


def access(task: Task, references: int, audits: Sequence[tuple[Audit, Any]], shadows: bool) -> str:
    """What the audits could use: L0 the unlearned model alone, L1 and the original, L2 and models trained anew (retrained or
    shadows), L3 and canaries planted in training."""
    used = {need for audit, _ in audits for need in audit.needs}
    if any(audit.name == "canary" for audit, _ in audits):
        return "L3"
    if references or (shadows and "shadows" in used):
        return "L2"
    return "L1" if task.has("original") else "L0"


def yardstick_warnings(evidence: Mapping[str, list[Evidence]], references: Sequence[Subject]) -> list[dict[str, Any]]:
    """Reasons to doubt the retrained models: [{reference, metrics, text}]."""
    found = doubts({s.name: evidence[s.name] for s in references}, evidence.get("original", []))
    return [plain(doubt) for doubt in found]


def false_alarms(evidence: Mapping[str, list[Evidence]], yardstick: Sequence[Subject]) -> dict[str, Any] | None:
    """How many retrained references are called 'outside' when each is held against the others, with the exact interval."""
    count = len(yardstick)
    if count <= ENOUGH:
        return None
    outside = sum(conclude(evidence[s.name]).verdict == OUTSIDE for s in yardstick)
    low, high = clopper_pearson(outside, count)
    return {"outside": outside, "of": count, "low": low, "high": high}
