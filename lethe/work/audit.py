"""Compare the models of the runs on one task with the yardstick: one scenario of the results."""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lethe.core.alike import beside
from lethe.core.config import plain
from lethe.core.evidence import Evidence
from lethe.core.outcome import Outcome
from lethe.core.registry import Audit
from lethe.core.seeds import derive
from lethe.core.task import Task
from lethe.core.view import audited, reserved
from lethe.judge.auditor import Known, Refused, applicable, distinct, examine
from lethe.judge.descent import Kinship
from lethe.judge.neighbours import neighbours
from lethe.judge.power import Power
from lethe.judge.reproduction import compared
from lethe.judge.selection import final
from lethe.judge.yardstick import Doubt, doubts, false_alarms
from lethe.pools.pool import Pool
from lethe.pools.procedures import NOTHING, RETRAIN
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Subject
from lethe.results.answered import margin_of
from lethe.results.rows import access, alarms, descent, doubt, power, row
from lethe.results.schema import Blind, Cost, NotTested, Row, Scenario
from lethe.results.yardstick import References
from lethe.work.failures import Failure, failure
from lethe.work.forget import Made
from lethe.work.job import Job, objective_of
from lethe.work.options import Options
from lethe.work.retrained import Retrained

FEW_SHADOWS = 8   # below: an attack with shadow models that has no value had too few


@dataclass(frozen=True)
class Yardstick:
    """What models are compared with: references (retrained models), or the original's neighbours where there are none.

    fresh    one more retrained model, outside the references: the row that a perfect method would equal
    control  trained on all training data, where that should make the original: does it?
    reason   where the references come from, or why there are none
    """

    references: list[Subject]
    fresh: list[Subject]
    neighbours: list[Subject]
    shadows: Shadows | None
    pool: Pool | None
    control: Pool | None
    reason: str

    @property
    def record(self) -> References:
        """The record of it in the results."""
        wall, cpu = (self.pool.seconds, self.pool.cpu_seconds) if self.pool else ([], [])
        return References(count=len(self.references), strategy=self.pool.strategy if self.pool else "",
                          seconds_each=_mean(wall), cpu_seconds_each=_mean(cpu), reason=self.reason,
                          neighbours=len(self.neighbours))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


@dataclass(eq=False)
class Sitting:
    """A task before its judges: with what models are compared, and what was measured so far. Where one model after the other is
    judged, each costs its own audits alone.

    task    with what audits may use       unlike  doubts whether the recipe makes the like of the original
    heard   the models that were judged    known, shared  as in `examine`
    """

    task: Task
    yardstick: Yardstick
    unlike: list[Doubt]
    original: Subject
    heard: list[tuple[Outcome, Subject]] = field(default_factory=list)
    known: Known = field(default_factory=dict)
    shared: dict[Hashable, Any] = field(default_factory=dict)

    def subject(self, one: Made, outcome: Outcome) -> Subject:
        """A model under examination: the same one whenever it is asked for."""
        found = next((subject for seen, subject in self.heard if seen is outcome), None)
        if found is None:
            found = Subject(one.name, outcome.answering, self.task, outcome.cost.seconds, procedure=one.procedure,
                            kind=outcome.kind, heir=one.heir or (one.procedure is not None and one.procedure.heir))
            self.heard.append((outcome, found))
        return found


def sitting(job: Job, task: Task, options: Options, retrained: Retrained, unseen_used: bool, searched: bool) -> Sitting:
    """The task and its yardstick, before any model of a run is judged."""
    task = judged(task, unseen_used, searched)
    yardstick = _yardstick(job, task, options, retrained)
    unlike = _reproduction(task, yardstick.control, options, job.settings.device) if yardstick.control else []
    return Sitting(task, yardstick, unlike, Subject("original", task.model, task, procedure=NOTHING))


def scenario(job: Job, task: Task, made: Sequence[Made], options: Options, retrained: Retrained, *, name: str = "",
             words: str = "", failures: Path | None = None, known: Sequence[Doubt] = (), court: Sitting | None = None,
             kin: Mapping[str, Kinship] | None = None) -> Scenario:
    """Audit the models of one task.

    words      the request in words
    failures   where tracebacks of audits go       known      doubts about the yardstick that stand before anything is audited
    kin        how near models handed over are to the original, by path
    court      that judged other models of this task before, and goes on
    """
    done = [one.outcome for one in made if one.outcome]
    court = court or sitting(job, task, options, retrained, any(outcome.unseen_used for outcome in done),
                             any(outcome.search for outcome in done))
    task, yardstick, original = court.task, court.yardstick, court.original
    made = _apart(made, [original, *yardstick.references, Subject("retrained", task.model, task)])
    subjects = [*yardstick.fresh, *_subjects(court, made)]
    for subject in [original, *yardstick.references, *subjects]:
        subject.device = job.settings.device
    chosen, skipped = _audits(job, task, yardstick)

    refused = _blaming({one.name for one in made if not one.method}, skipped, name, failures)

    seen: list[Power] = []
    evidence = examine(task, subjects, original, yardstick.references, chosen, job.judging.depth, job.settings.seed,
                       options.listener, yardstick.shadows, margins=job.judging.margins, neighbours=yardstick.neighbours,
                       refused=refused, stop=options.stop, detects=seen.append, known=court.known, shared=court.shared)
    held = {subject.name: evidence[subject.name] for subject in yardstick.references}
    found = doubts(held, evidence.get("original", [])) if retrained.provided else []   # what was trained here has not seen forget
    skipped += _unanswered(chosen, [evidence[subject.name] for subject in subjects],
                           yardstick.shadows.limit if yardstick.shadows else 0)
    sizes, outside = {key: len(split) for key, split in task.splits.items()}, false_alarms(list(held.values()))
    margin = margin_of(job.judging.max_loss, sizes)
    told = partial(row, score=task.score_name, margin=margin, references=len(yardstick.references))
    exact = bool(done) and all(outcome.guarantee.get("level") == "exact" for outcome in done)
    rows = [told("original", "original", evidence["original"])] if task.has("original") else []
    rows += [told(s.name, "retrained", evidence[s.name], cost=Cost(seconds=s.seconds, cpu_seconds=s.cpu_seconds))
             for s in yardstick.fresh]
    rows += [_row(told, one, evidence.get(one.name, []), _samples(task, one, refused)) for one in made]
    return Scenario(
        name=name, request=words, family=task.family, score_name=task.score_name,
        sizes=sizes, unseen=_unseen(task), fingerprints=task.fingerprint, facts=plain(task.facts),
        references=yardstick.record, subjects=tuple(rows), not_tested=tuple(skipped),
        blind=tuple(Blind(audit=audit.name, text=audit.blind) for audit, _ in chosen),
        false_alarms=alarms(outside), power=power(next(iter(seen), None)), descent=descent(kin or {}),
        doubts=tuple(doubt(one) for one in [*known, *court.unlike, *found]),
        objective=job.objective or objective_of(task.family, task.has("recipe") or bool(retrained.provided) or exact),
        max_loss=margin, declared=job.judging.declared, depth=job.judging.depth,
        access=access(task, len(yardstick.references), chosen, yardstick.shadows is not None), watched=_watched(job, task, made),
    )


def _unseen(task: Task) -> str:
    """Which unseen examples the forget set is compared with, in words."""
    return beside(task.forget, task.holdout).words if task.has("forget") and task.has("holdout") else ""


def _watched(job: Job, task: Task, made: Sequence[Made]) -> tuple[str, ...]:
    """Labels of methods that ask for no retained data, and whose runs the watchdog scored on some."""
    if job.watchdog is False or not task.has("retain"):
        return ()
    blind = {run.name for run in job.runs if not {"retain", "retain?"} & run.record.needs}
    return tuple(dict.fromkeys(one.label for one in made if one.outcome and one.name in blind))


def _apart(made: Sequence[Made], controls: Sequence[Subject]) -> list[Made]:
    """The models to audit, with names that neither a control nor another of them has: files are called anything."""
    names = [control.name for control in controls]
    apart: list[Made] = []
    for one in made:
        apart.append(replace(one, name=distinct(one.name, names, [other.name for other in apart])))
    return apart


def judged(task: Task, unseen_used: bool, searched: bool) -> Task:
    """The task with what audits may use: what a method learned from is not unseen, what a search used may not judge."""
    given = "reference" in task.splits   # then methods saw nothing of holdout
    if unseen_used and task.has("holdout") and not given:
        task = task.replaced(holdout=audited(task.holdout), reference=reserved(task.holdout))
    return final(task) if searched else task


def _yardstick(job: Job, task: Task, options: Options, retrained: Retrained) -> Yardstick:
    pool, control, references, fresh = None, None, [], []
    reason = _unretrained(task, job.judging.references)
    if retrained.provided:
        references = [Subject(f"reference {i}", model, task) for i, model in enumerate(retrained.provided)]
        reason = f"{len(references)} models provided as retrained"
    elif retrained.pools:
        pool, one, *others = retrained.pools
        control = others[0] if others else None
        references = [Subject(f"reference {i}", model, task, seconds, procedure=RETRAIN)
                      for i, (model, seconds) in enumerate(zip(pool.models, pool.seconds, strict=True))]
        reason = pool.reason
        fresh = [Subject("retrained", one.models[0], task, one.seconds[0], procedure=RETRAIN, cpu_seconds=one.cpu_seconds[0])]
    shadows = shadows_of(job, task, options)
    weak = [] if references else neighbours(task, job.judging.neighbours, derive(job.settings.seed, "neighbours"),
                                            job.settings.device)
    return Yardstick(references, fresh, weak, shadows, pool, control, reason)


def _unretrained(task: Task, count: int) -> str:
    """Why no reference model is trained; '' where some are."""
    if "no_retraining" in task.facts:
        return str(task.facts["no_retraining"])
    if not task.has("recipe"):
        return "how the model was trained is not stated (recipe)"
    return "" if count and task.has("retain") else "none were requested (audit.references: 0)" if not count else (
        "there are no retained data to train on")


def _reproduction(task: Task, control: Pool, options: Options, device: str) -> list[Doubt]:
    """Whether the user's own training makes the like of the original; what is found stands among the facts, too."""
    again = Subject("reproduced original", control.models[0], task, control.seconds[0], device=device)
    task.facts["reproduction"], found = compared(task, Subject("original", task.model, task, device=device), again)
    for one in found:
        options.warn(one.text)
    return found


def shadows_of(job: Job, task: Task, options: Options) -> Shadows | None:
    """The pool of shadow models that audits may grow; None when the task cannot have any."""
    asked = job.judging
    if not asked.shadows or not all(task.has(need) for need in ("recipe", "retain", "holdout")):
        return None
    return Shadows(task, asked.shadows, derive(job.settings.seed, "shadows"), asked.strategy, job.settings.device, job.cache,
                   options.listener, options.stop)


def _subjects(court: Sitting, made: Sequence[Made]) -> list[Subject]:
    """The runs that ended well; those that differ only in their seed are siblings."""
    groups: dict[str, list[Subject]] = {}
    for one in made:
        if one.outcome and not one.failure:
            groups.setdefault(one.label or one.name, []).append(court.subject(one, one.outcome))
    for group in groups.values():
        for subject in group:
            subject.siblings = [other for other in group if other is not subject]
    return [subject for group in groups.values() for subject in group]


def _audits(job: Job, task: Task, yardstick: Yardstick) -> tuple[list[tuple[Audit, Any]], list[NotTested]]:
    """The audits that can run, and the reasons why others cannot."""
    chosen: list[tuple[Audit, Any]] = []
    skipped: list[NotTested] = []
    shadows = yardstick.shadows.limit if yardstick.shadows else 0
    for audit, cfg in job.judging.audits:
        why = applicable(audit, task, len(yardstick.references), job.judging.reach, shadows)
        if not why:
            chosen.append((audit, cfg))
        elif not why.startswith("made for"):
            skipped.append(NotTested(audit=audit.name, why=why))
    return chosen, skipped


def _unanswered(chosen: Sequence[tuple[Audit, Any]], found: Sequence[Sequence[Evidence]], shadows: int) -> list[NotTested]:
    """Metrics that need more than their audit does, and that no model got; attacks that so few shadow models left without any."""
    reported = {item.metric for items in found for item in items}
    ran = {item.audit for items in found for item in items}
    sparse = (f"gave no value: {shadows} shadow models are too few, since hardly an example has some that were trained on it and "
              "others that were not. Set audit.shadows: 16")
    silent = {audit.name for audit, _ in chosen if "shadows" in audit.needs and audit.name not in ran and shadows < FEW_SHADOWS}
    some = 0 < shadows < FEW_SHADOWS
    asked = {(audit.name, name): sparse if some and metric.asks == "shadow models" else f"needs {metric.asks}"
             for audit, _ in chosen for name, metric in audit.metrics.items()
             if metric.asks and name not in reported and audit.name not in silent}
    return [*(NotTested(audit=name, why=sparse) for name in sorted(silent)),
            *(NotTested(audit=audit, metric=metric, why=why) for (audit, metric), why in asked.items())]


def _row(told: Callable[..., Row], one: Made, evidence: Sequence[Evidence], samples: Sequence[Mapping[str, Any]]) -> Row:
    failed = one.failure or Failure("")
    return told(one.name, "method", evidence, label=one.label, method=one.method, variant=one.variant, seed=one.seed,
                run=one.outcome, error=failed.text or None, defect=failed.defect, log=failed.log or None, samples=samples)


def _samples(task: Task, one: Made, refused: Callable[[str, str, Exception], None]) -> Sequence[Mapping[str, Any]]:
    """Samples for a person to look at; a model whose answers cannot be shown has evidence all the same."""
    try:
        return task.samples(one.outcome.answering) if one.outcome and not one.failure else []
    except Exception as error:
        refused("samples", one.name, error)
        return []


def _blaming(foreign: Container[str], skipped: list[NotTested], scenario: str, failures: Path | None) -> Refused:
    """Notes why an audit has no value of a model. What fails on a control, too, is never the fault of a model from elsewhere."""
    failed: set[str] = set()

    def refused(audit: str, subject: str, error: Exception) -> None:
        if subject not in foreign:
            failed.add(audit)
        skipped.append(_refused(audit, subject, error, scenario, failures, subject in foreign and audit not in failed))

    return refused


def _refused(audit: str, subject: str, error: Exception, scenario: str, failures: Path | None, foreign: bool) -> NotTested:
    """Why an audit has no value of one model. What only a model from elsewhere raises is its own limit, whatever it raises."""
    found = failure(error, f"{scenario} {audit} of {subject}", failures)
    why = found.text if found.defect else str(error)
    return NotTested(audit=audit, subject=subject, why=f"could not be run on this model: {why}" if foreign else why,
                     defect=found.defect and not foreign, log=found.log or None)
