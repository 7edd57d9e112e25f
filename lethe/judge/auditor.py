"""The auditor: asks every audit of every model once, compares values with the yardstick, returns verdicts.

An audit measures *one* model (`Subject`) beside a `Panel` (the original and the retrained references). The auditor
calls it for the unlearned model, for the original (positive control), and for every reference against the other
references (the yardstick and negative control), and turns the values into Evidence. Where no model can be retrained, the
original's neighbours (`lethe.judge.neighbours`) are measured instead, as a weaker yardstick.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from itertools import chain, count
from typing import Any, NamedTuple

from lethe.core.config import digest
from lethe.core.events import Listener, Said, Units, silent
from lethe.core.evidence import OUTSIDE, Evidence, Value
from lethe.core.families import provided
from lethe.core.parked import release
from lethe.core.registry import Audit
from lethe.core.task import Task
from lethe.errors import LetheError
from lethe.judge.band import ENOUGH
from lethe.judge.calibration import Family, calibrated
from lethe.judge.panel import Panel
from lethe.judge.power import Power, power
from lethe.judge.verdict import controlled, corrected, judge, judge_weakly, margin_of
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Subject
from lethe.train.stop import Stop

Known = dict[tuple[str, Subject], "Measured"]     # by name of the audit and model
Refused = Callable[[str, str, Exception], None]   # (audit, subject, error)

DEPTHS = ("quick", "standard", "deep")


class Measured(NamedTuple):
    """What one audit measured of one model."""

    values: dict[str, Value]   # by metric
    seconds: float


def examine(
    task: Task, subjects: Sequence[Subject], original: Subject, references: Sequence[Subject],
    audits: Sequence[tuple[Audit, Any]],
    depth: str = "standard", seed: int = 0, listener: Listener = silent, shadows: Shadows | None = None, *,
    margins: Mapping[str, float] | None = None, neighbours: Sequence[Subject] = (),
    refused: Refused | None = None, stop: Stop | None = None, detects: Callable[[Power], None] | None = None,
    known: Known | None = None, shared: dict[Hashable, Any] | None = None,
) -> dict[str, list[Evidence]]:
    """Evidence for every subject by its name; the original and the references are examined too. No two may share a name.

    audits      (Audit, config) pairs; those that the task or the references cannot serve are skipped (see `applicable`)
    margins     metric -> equivalence margin, before the metric's own
    neighbours  models as good as the original: the weaker yardstick, measured only where there are no references
    refused     called with (audit, subject, error) when an audit fails on one model; the others go on. None: what is not a
                LetheError ends the examination
    stop        ends it before the next audit of the next model      known   what was measured before; what is now is added
    shared      what examinations beside other references made (`Panel.once`) or measured without them; what is now is added
    detects     called with the smallest part of the forget set left in that these tests would have seen (`lethe.judge.power`)
    """
    published: dict[Hashable, Any] = {} if shared is None else shared
    token = stop or Stop()
    weak = [] if references else list(neighbours)
    everyone = _apart([*([original] if task.has("original") else []), *references, *subjects])
    found: dict[Subject, list[Evidence]] = {s: [] for s in everyone}   # a subject is itself, whatever it is called
    values: dict[str, dict[Subject, dict[str, Value]]] = {}

    def panel_of(subject: Subject) -> Panel:
        others = [r for r in references if r is not subject]
        return Panel(task, original, others, depth, seed, published, len(others) < len(references), shadows)

    alike = not (task.has("forget") and task.has("holdout")) or panel_of(original).beside().alike
    with Units(listener, "audits", len(audits) * len([*everyone, *weak])) as units:
        for audit, cfg in audits:
            listener(Said(f"auditing: {audit.name}"))
            measured: dict[Subject, Measured] = {}
            for subject in [*everyone, *weak]:
                token.check()
                measured[subject] = _measured(audit, cfg, subject, panel_of(subject), refused, known)
                release(value for one in everyone for value in one.model.parameters())   # whatever was asked of them
                units.done()
            values[audit.name] = {subject: one.values for subject, one in measured.items()}
            for subject in everyone:
                found[subject] += _judged(audit, subject, measured, original, references, weak, margins or {}, alike)
    if detects and (sees := power(panel_of, original, references, audits, values, family_of(found, references), seed)):
        detects(sees)
    return decided({subject.name: items for subject, items in found.items()}, original.name,
                   [r.name for r in references], {s.name for s in subjects if s.heir})


def family_of(found: Mapping[Subject, Sequence[Evidence]], references: Sequence[Subject]) -> Family:
    """The tests of any model as one, calibrated on the references."""
    return calibrated([found[r] for r in references], [item for items in found.values() for item in items])


def _judged(audit: Audit, subject: Subject, measured: Mapping[Subject, Measured], original: Subject,
            references: Sequence[Subject], weak: Sequence[Subject], margins: Mapping[str, float], alike: bool) -> list[Evidence]:
    """What one audit measured of one model, held against the references, else against the weaker yardstick."""
    before = measured[original].values if original in measured else {}
    yard = [measured[m].values for m in references or weak if m is not subject]
    items = []
    for metric, value in measured[subject].values.items():
        rest = [v[metric] for v in yard if metric in v], before.get(metric), measured[subject].seconds
        items.append(judge(audit, value, *rest, margin_of(audit, metric, margins)) if references
                     else judge_weakly(audit, value, *rest, alike))
    return items


def _apart(subjects: list[Subject]) -> list[Subject]:
    """The subjects, of which no two have one name: a row would overwrite another."""
    if len({subject.name for subject in subjects}) < len(subjects):
        raise ValueError(f"two of {[subject.name for subject in subjects]} have one name; see distinct()")
    return subjects


def distinct(name: str, controls: Iterable[str], taken: Iterable[str] = ()) -> str:
    """A name of its own for a model: beside a control 'original' another becomes 'model original'; a second 'a' is 'a (2)'."""
    free = f"model {name}" if name in set(controls) else name
    others = {*controls, *taken}
    return next(one for one in chain([free], (f"{free} ({k})" for k in count(2))) if one not in others)


def decided(found: Mapping[str, Sequence[Evidence]], original: str, references: Sequence[str] = (),
            heirs: Collection[str] = ()) -> dict[str, list[Evidence]]:
    """The evidence decided as one test of each model, calibrated on the references, and controlled by the original.

    A reference is judged by the others alone. heirs: models that are known to come from the original.
    """
    every = [item for items in found.values() for item in items]

    def family(left_out: str = "") -> Family:
        return calibrated([found[name] for name in references if name != left_out], every)

    common = family()
    judged = {name: corrected(items, family(name) if name in references else common) for name, items in found.items()}
    outside = {(e.audit, e.metric): e.verdict == OUTSIDE for e in judged.get(original, []) if e.p is not None}
    return {name: controlled(items, outside, name in heirs or name == original) for name, items in judged.items()}


def _measured(audit: Audit, cfg: Any, subject: Subject, panel: Panel, refused: Refused | None,
              known: Known | None) -> Measured:
    """One audit of one model, or what is known of it; no values where it needs a procedure that is not known, or fails."""
    if known is not None and (audit.name, subject) in known:
        return known[audit.name, subject]
    began = time.perf_counter()
    lacking = "procedure" in audit.needs and subject.procedure is None
    values: list[Value] = []
    try:
        values = [] if lacking else _asked(audit, cfg, subject, panel)
    except Exception as error:   # any: one audit never ends the others
        if refused is None and not isinstance(error, LetheError):
            raise
        if refused is not None:
            refused(audit.name, subject.name, error)
        known = None   # what fails is told of again
    found = Measured({value.metric: value for value in values}, time.perf_counter() - began)
    if known is not None:
        known[audit.name, subject] = found
    return found


def _asked(audit: Audit, cfg: Any, subject: Subject, panel: Panel) -> list[Value]:
    """What it measures of a model: once, where that does not depend on the references."""
    def measure() -> list[Value]:
        return list(audit.measure(cfg, subject, panel))

    return measure() if audit.compares else panel.once(("measured", audit.name, digest(cfg), subject), measure)


def applicable(audit: Audit, task: Task, references: int, depth: str, shadows: int = 0) -> str:
    """Empty when the audit can run; otherwise why not, for the report's list of what was not tested."""
    if lacking := audit.uses - task.provides:
        fitting = sorted(family for family, operations in provided().items() if audit.uses <= operations)
        return f"made for {', '.join(fitting)}, since it uses {', '.join(sorted(lacking))}"
    if lacking := audit.uses - task.serves:
        return f"uses {', '.join(sorted(lacking))}, which has no meaning for {task.unserved(lacking)}"
    if DEPTHS.index(audit.depth) > DEPTHS.index(depth):
        return f"runs at depth {audit.depth}"
    for need in sorted(audit.needs):
        if need == "reference":
            if not references:
                return "needs a retrained model"
        elif need == "references":
            if references < ENOUGH:
                return f"needs at least {ENOUGH} retrained models"
        elif need == "shadows":
            if not shadows:
                return "needs shadow models (audit.shadows > 0, a recipe, retain and holdout data)"
        elif need != "procedure" and not need.endswith("?") and not task.has(need):
            return f"needs {need}"
    return ""
