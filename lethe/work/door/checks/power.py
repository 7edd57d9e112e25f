"""What the tests can find in so few records, before they are paid for.

A share measured on n records is known to ± 0.98/√n. Below `SMALL` records triage looks at each: a record that others cover leaves
no trace, so that no test distinguishes even the untouched model, and the answer of a whole run would be "no answer".
"""

from __future__ import annotations

from collections.abc import Iterator

from lethe.core.passes import are_numbers
from lethe.core.task import Task
from lethe.errors import NeedsUnmet
from lethe.judge.triage import triage
from lethe.report.answer import SMALL
from lethe.work.door.door import Finding
from lethe.work.open import Plan

STAGE = 2
LIMIT = 600   # retained records that triage compares with; it takes about a second


def check(plan: Plan) -> Iterator[Finding]:
    """One finding a scenario."""
    for name, task in plan.tasks.items():
        count = len(task.forget)
        before = f"{name}: " if name else ""
        known = f"a share of {count} records is known to ± {min(1.0, 0.98 / count**0.5):.2g}"
        if count >= SMALL:
            yield Finding("ok", f"{before}{count} records to forget: {known}.")
            continue
        counts = _triaged(plan, task)
        if counts is None:
            yield Finding("warn", f"{before}Only {count} to forget: {known}, so only gross traces can be found.", "")
        elif counts["hard"]:
            yield Finding("warn", f"{before}Only {count} to forget: {known}. {counts['hard']} of them resemble no other, so "
                          "single-record tests may find a trace of these.", "lethe triage names them.")
        else:
            kinds = ", ".join(f"{n} {kind}" for kind, n in counts.items() if n)
            yield Finding("warn", f"{before}Only {count} to forget, and none of them is unlike those that stay (triage: "
                          f"{kinds}). The tests will most likely not detect them in the untouched model either, and then "
                          "there is no answer, however long they run.", _way_on(plan))


def _way_on(plan: Plan) -> str:
    if not plan.job.judging.references and not plan.job.judging.shadows:
        return "method=retrain deletes them for certain."
    return ("To get the model without that wait: audit.references=0 audit.shadows=0; method=retrain deletes them for certain; "
            "lethe triage tells which records show.")


def _triaged(plan: Plan, task: Task) -> dict[str, int] | None:
    """Records by advice; None where triage cannot look at them."""
    x = task.forget.columns.get("x")
    if not task.forget.inputs or (plan.original is None and (x is None or not are_numbers(x))):   # random features
        return None
    try:
        counts: dict[str, int] = triage(task, limit=LIMIT, seed=plan.job.settings.seed)["counts"]
    except NeedsUnmet:
        return None
    return counts
