"""The auditor: looks at models once, asks every audit, holds values against the yardstick, gives verdicts.

An audit measures *one* model (`Subject`) beside a `Panel` (the original and the retrained references). The auditor
calls it for the unlearned model, for the original (positive control), and for every reference against the other
references (the yardstick and negative control), and turns the values into Evidence. Where no model can be retrained, the
original's neighbours (`lethe.judge.neighbours`) are measured in their place, as the weaker yardstick that they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from lethe.core.events import Listener, Said, Units, silent
from lethe.core.evidence import OUTSIDE, Evidence, Value
from lethe.core.registry import Audit
from lethe.core.task import Task
from lethe.errors import LetheError
from lethe.judge.panel import Panel
from lethe.judge.verdict import ENOUGH, controlled, corrected, judge, judge_weakly, margin_of
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Subject
from lethe.train.stop import Stop

Refused = Callable[[str, str, Exception], None]   # (audit, subject, error)

DEPTHS = ("quick", "standard", "deep")


def examine(
    task: Task,
    subjects: Sequence[Subject],
    original: Subject,
    references: Sequence[Subject],
    audits: Sequence[tuple[Audit, Any]],
    depth: str = "standard",
    seed: int = 0,
    listener: Listener = silent,
    shadows: Shadows | None = None,
    *,
    margins: Mapping[str, float] | None = None,
    neighbours: Sequence[Subject] = (),
    refused: Refused | None = None,
    stop: Stop | None = None,
) -> dict[str, list[Evidence]]:
    """Evidence for every subject by its name; the original and the references are examined too, under their names.

    audits      (Audit, config) pairs; those that the task or the references cannot serve are skipped (see `applicable`)
    margins     metric -> equivalence margin, before the metric's own
    neighbours  models as good as the original: the weaker yardstick, measured only where there are no references
    refused     told (audit, subject, error) when an audit raises anything for one model; the others go on. None: what is not a
                LetheError ends the examination
    stop        ends the examination before the next audit of the next model
    """
    shared: dict[Hashable, Any] = {}
    token = stop or Stop()
    weak = [] if references else list(neighbours)
    everyone = [*([original] if task.has("original") else []), *references, *subjects]
    found: dict[str, list[Evidence]] = {s.name: [] for s in everyone}

    def panel_of(subject: Subject) -> Panel:
        others = [r for r in references if r is not subject]
        return Panel(task, original, others, depth, seed, shared, len(others) < len(references), shadows)

    with Units(listener, "audits", len(audits) * len([*everyone, *weak])) as units:
        for audit, cfg in audits:
            listener(Said(f"auditing: {audit.name}"))
            values: dict[str, dict[str, Value]] = {}
            seconds = {}
            for subject in [*everyone, *weak]:
                token.check()
                began = time.perf_counter()
                values[subject.name] = _measured(audit, cfg, subject, panel_of(subject), refused)
                seconds[subject.name] = time.perf_counter() - began
                units.done()
            for subject in everyone:
                for metric, value in values[subject.name].items():
                    before, took = values.get(original.name, {}).get(metric), seconds[subject.name]
                    yard = [values[m.name][metric] for m in references or weak if m is not subject and metric in values[m.name]]
                    if references:
                        made = judge(audit, value, yard, before, took, margin_of(audit, metric, margins or {}))
                    else:
                        made = judge_weakly(audit, value, yard, before, took)
                    found[subject.name].append(made)
    controls = corrected(found.get(original.name, []))
    outside = {(e.audit, e.metric): e.verdict == OUTSIDE for e in controls if e.p is not None}
    return {name: controlled(corrected(items), outside) for name, items in found.items()}


def _measured(audit: Audit, cfg: Any, subject: Subject, panel: Panel, refused: Refused | None) -> dict[str, Value]:
    """What an audit says of one model, by metric; nothing where it needs a procedure that is not known, or fails."""
    if "procedure" in audit.needs and subject.procedure is None:
        return {}
    try:
        return {value.metric: value for value in audit.measure(cfg, subject, panel)}
    except Exception as error:   # any: one audit never ends the others
        if refused is None and not isinstance(error, LetheError):
            raise
        if refused is not None:
            refused(audit.name, subject.name, error)
        return {}


def applicable(audit: Audit, task: Task, references: int, depth: str, shadows: int = 0) -> str:
    """Empty when the audit can run; otherwise why not, for the report's list of what was not tested."""
    if "any" not in audit.families and task.family not in audit.families:
        return f"made for {', '.join(sorted(audit.families))}"
    if DEPTHS.index(audit.depth) > DEPTHS.index(depth):
        return f"runs at depth {audit.depth}"
    for need in sorted(audit.needs):
        if need == "references":
            if references < ENOUGH:
                return f"needs at least {ENOUGH} retrained models"
        elif need == "shadows":
            if not shadows:
                return "needs shadow models (audit.shadows > 0, a recipe, retain and holdout data)"
        elif need != "procedure" and not need.endswith("?") and not task.has(need):
            return f"needs {need}"
    return ""
