"""Climb a ladder: run the cheapest method, judge its model, and go on to the next until one is as requested.

What judges a rung does not judge the result: rungs are held against retrained models on one half of the forget set and on the
unseen data that methods may see; the final audit uses the other halves and the test data. A model that this audit refutes ends
no climb: the next rung that fits into the budget is tried. The record says how many models the final data have judged, since of
several one may pass by chance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lethe.core.names import folder_name
from lethe.core.outcome import Cost, Outcome
from lethe.core.registry import Audit
from lethe.core.task import Task
from lethe.core.words import number
from lethe.judge.auditor import Known, applicable, examine
from lethe.judge.selection import SMALL, halves, sought
from lethe.pools.subject import Subject
from lethe.report.require import Wanted, lacks
from lethe.results import ladder as records
from lethe.results.answered import margin_of, record
from lethe.results.answers import Answers
from lethe.results.schema import Row, Scenario
from lethe.train.rehearsal import shares
from lethe.train.settings import Settings
from lethe.work.forget import Made, Places, run_all
from lethe.work.job import Climb, Job
from lethe.work.ladder import RETRAINING, Ladder, Rung
from lethe.work.options import Options
from lethe.work.retrained import Retrained


@dataclass(eq=False)
class Judge:
    """What a rung is held against, on the search's part of the data; references and original are measured once.

    control  the answers of one more retrained model: what it cannot answer with yes, no model can
    """

    job: Job
    task: Task
    original: Subject
    references: list[Subject]
    audits: list[tuple[Audit, Any]]
    options: Options
    seconds: float = 0.0
    known: Known = field(default_factory=dict)

    def answers(self, name: str, model: Any) -> Answers:
        """The three answers on a model."""
        began, job = time.perf_counter(), self.job
        subject = Subject(name, model, self.task, device=job.settings.device)
        found = examine(self.task, [subject], self.original, self.references, self.audits, job.judging.depth, job.settings.seed,
                        self.options.listener, margins=job.judging.margins, refused=lambda *_: None, stop=self.options.stop,
                        known=self.known)
        self.seconds += time.perf_counter() - began
        sizes = {role: len(split) for role, split in self.task.splits.items()}
        return record(found[subject.name], self.task.score_name, margin_of(job.judging.max_loss, sizes), len(self.references))


def judge(job: Job, task: Task, retrained: Retrained, options: Options) -> Judge:
    """The judge of the rungs of a task. Shadow models are left to the final audit."""
    view, device = sought(task), job.settings.device
    models = retrained.pools[0].models
    references = [Subject(f"reference {i}", model, view, device=device) for i, model in enumerate(models)]
    audits = [(audit, cfg) for audit, cfg in job.judging.audits
              if not applicable(audit, view, len(references), job.judging.reach) and "procedure" not in audit.needs]
    return Judge(job, view, Subject("original", view.model, view, device=device), references, audits, options)


@dataclass(frozen=True)
class Climbed:
    """The models of the rungs that were tried, the record of the climb, and the scenario in which all of them are judged."""

    made: tuple[Made, ...]
    record: records.Ladder
    case: Scenario


def climb(job: Job, task: Task, ladder: Ladder, retrained: Retrained, options: Options, places: Places,
          final: Callable[[Sequence[Made]], Scenario]) -> Climbed:
    """Try the rungs of a ladder in order until a model is as requested, also on data that the search did not see.

    final   judges models on these data
    """
    assert job.climb is not None
    court = judge(job, task, retrained, options)
    control = court.answers("retrained", retrained.pools[1].models[0])
    wanted = _wanted(job.climb, control)
    blind = _blind(job.climb, control)
    blind = blind and blind + _where(task)
    made: list[Made] = []
    rungs: list[records.Rung] = []
    case, met, spent = None, "", 0.0
    for rung in ladder.rungs:
        why = _skipped(rung, met, blind, wanted, spent, job.climb.within)
        if why:
            rungs.append(_told(rung, "not tried", why))
            continue
        rest = job.settings if rung.exact else limited(job.settings, job.climb.within - spent, ladder.whole)
        one = run_all(replace(job, settings=rest), task, [rung.run], options,
                      Places(places.work, None, places.failures, places.scenario), retrained.known)[0]
        made.append(one)
        case = None   # does not know of this one yet
        told = _judged(rung, one, court, wanted, ladder.whole)
        spent += told.cost or 0.0
        if told.ended == "reached":
            case = final(made)
            row = row_of(case, one)
            unclear, lacking = _held(job.climb, row, case)
            blind, met = blind or unclear, "" if lacking else row.name
            if lacking:
                told = told.model_copy(update={"ended": "refuted", "why": "; ".join(lacking)})
        rungs.append(told)
    if ladder.beyond is not None:
        rungs.append(_told(ladder.beyond, "not tried", f"beyond {number(job.climb.within)} of a retraining"))
    looks = sum(one.ended in ("reached", "refuted") for one in rungs)
    found = records.Ladder(until=job.climb.until, within=job.climb.within, rungs=tuple(rungs), spent=spent, looks=looks,
                           judging_seconds=court.seconds, steps=ladder.whole.steps, examples=ladder.whole.examples,
                           overlap=len(task.forget) if len(task.forget) < SMALL else 0, delivered=met, met=bool(met))
    return Climbed(tuple(made), found, case or final(made))


def row_of(case: Scenario, one: Made) -> Row:
    """The row of a model that was judged."""
    return next(row for row in case.subjects if row.role == "method" and row.label == one.label)


def _held(asked: Climb, row: Row, case: Scenario) -> tuple[str, list[str]]:
    """(why no test can tell, or '', what a model lacks) on the data that the search did not see. Usefulness is asked for as far
    as these show it of a retrained model."""
    control = next((one.answers for one in case.subjects if one.role == "retrained"), None)
    if row.answers is None or control is None:
        return "", ["it could not be judged"]
    blind, missing = answers_lack(asked, row, control)
    return blind, [f"no test can tell: {blind}"] if blind and row.method != RETRAINING else missing


def _where(task: Task) -> str:
    """At how much of the forget set the search looks; '' where at all of it."""
    part, whole = len(halves(task.forget)[0]), len(task.forget)
    return "" if part == whole else f" (by the {part} of {whole} forgotten examples at which the search looks)"


def concluded(climbed: Climbed, places: Places) -> Scenario:
    """The scenario with its ladder. The model that is as requested is written to the folder of models; any other is not."""
    found, case = climbed.record, climbed.case
    chosen = next((one for one in climbed.made if found.met and row_of(case, one).name == found.delivered), None)
    if chosen is not None and chosen.outcome is not None and places.models:
        _saved(chosen.outcome, places, chosen.name)
    return case.model_copy(update={"ladder": found.model_copy(update={"why": "" if found.met else unmet(found, case)})})


def _wanted(asked: Climb, control: Answers) -> tuple[Wanted, ...]:
    """What the answers must be. That it is useful is only asked for where these data can show it of a retrained model."""
    if asked.until == "indistinguishable":
        return ("indistinguishable",)
    return ("forgotten", "useful") if control.useful.answer == "yes" else ("forgotten",)


def _missing(found: Answers, wanted: Sequence[Wanted], method: str, guarantee: Mapping[str, Any]) -> list[str]:
    """What a model lacks. One that never read the data has forgotten them, whatever tests say of it, and retraining is what the
    others are compared with. A loss beyond the margin counts also where a smaller one could not be shown."""
    if method == RETRAINING:
        return []
    exact = guarantee.get("level") == "exact"
    left: list[Wanted] = [one for one in wanted if not (exact and one == "forgotten")]
    if "indistinguishable" not in wanted and "useful" not in left and found.useful.answer == "no":
        left.append("useful")
    return lacks(found.forgotten, found.useful, found.indistinguishable, left)


def answers_lack(asked: Climb, row: Row, control: Answers) -> tuple[str, list[str]]:
    """(why no test can tell, or '', what a model lacks) beside the answers of one more retrained model."""
    assert row.answers is not None
    wanted, blind = _wanted(asked, control), _blind(asked, control)
    exact = row.exact and "forgotten" in wanted
    return "" if exact else blind, _missing(row.answers, wanted, row.method, row.guarantee)


def _blind(asked: Climb, control: Answers) -> str:
    """Why no test can tell whether a model is as requested; '' where one can."""
    found = control.forgotten if asked.until == "forgotten" else control.indistinguishable
    return found.why if found.answer == "cannot be judged" else ""


def _skipped(rung: Rung, met: str, blind: str, wanted: Sequence[Wanted], spent: float, within: float) -> str:
    """Why a rung is not tried; '' where it is."""
    if met:
        return f"{met} was as requested"
    if blind and not rung.sure and not (rung.exact and "forgotten" in wanted):
        return f"no test can tell: {blind}"
    if spent + rung.cost > within + 1e-9:
        return f"{number(spent)} of a retraining was spent, so it no longer fits into {number(within)}"
    return ""


def limited(settings: Settings, left: float, whole: Cost) -> Settings:
    """Settings by which a run ends where the rest of the budget is spent, in retrainings: where a method ends by how its model
    does, it may take more than a rehearsal foretells."""
    steps, examples = (max(1, math.floor(left * count + 1e-6)) for count in (whole.steps, whole.examples))
    return replace(settings, max_steps=min(steps, settings.max_steps or steps),
                   max_examples=min(examples, settings.max_examples or examples))


def _judged(rung: Rung, one: Made, court: Judge, wanted: Sequence[Wanted], whole: Cost) -> records.Rung:
    """A rung that was tried: what its model lacks, and what it did cost."""
    outcome = one.outcome
    if outcome is None or one.failure is not None:
        return _told(rung, "failed", one.failure.text if one.failure else "no model", rung.cost if outcome is None else
                     shares(outcome.cost, whole), outcome)
    cost = shares(outcome.cost, whole)
    found = court.answers(one.name, outcome.answering)
    replies = {"forgotten": found.forgotten.answer, "useful": found.useful.answer,
               "indistinguishable": found.indistinguishable.answer}
    missing = _missing(found, wanted, one.method, outcome.guarantee)
    exact = f"exactly: {outcome.guarantee['basis']}" if outcome.guarantee.get("level") == "exact" else ""
    return _told(rung, "not reached" if missing else "reached", "; ".join(missing) or exact, cost, outcome, replies)


def _told(rung: Rung, ended: records.Ended, why: str, cost: float | None = None, outcome: Outcome | None = None,
          replies: dict[str, Any] | None = None) -> records.Rung:
    return records.Rung(
        row=rung.run.name, method=rung.run.method, mechanism=rung.run.record.mechanism, expected=rung.cost, chance=rung.chance,
        passed=round(rung.odds.passed), runs=rung.odds.runs, ended=ended, why=why, cost=cost,
        seconds=None if outcome is None else outcome.cost.seconds, **(replies or {}))


def _saved(outcome: Outcome, places: Places, name: str) -> None:
    assert places.models is not None
    if not (places.models / folder_name(name)).exists():
        outcome.save(places.models / folder_name(name))


def _elsewhere(found: records.Ladder, case: Scenario) -> str:
    """That the rest of the data tell what the search's part does not; '' where they do not either."""
    row = next((one.answers for one in case.subjects if one.role == "original"), None)
    if row is None or (row.forgotten if found.until == "forgotten" else row.indistinguishable).answer != "no":
        return ""
    return "; the others do show them, so a method of your choice (method=…, without --until) can be judged by all of them"


def unmet(found: records.Ladder, case: Scenario) -> str:
    """What is not met, and what retraining would cost."""
    tried = [rung for rung in found.rungs if rung.ended in ("refuted", "not reached")]
    refuted, failed = ([rung for rung in found.rungs if rung.ended == end] for end in ("refuted", "failed"))
    if refuted:
        last = refuted[-1]
        which = last.row if len(refuted) == 1 else f"each of {', '.join(rung.row for rung in refuted)}"
        said = f"{which} was so where the search looked, not on data that it did not see: {last.row}: {last.why}"
    elif tried:
        nearest = max(tried, key=lambda rung: (rung.forgotten == "yes", rung.indistinguishable == "yes", rung.cost or 0.0))
        which = f"of {len(tried)} models none is; the nearest is {nearest.row}" if len(tried) > 1 else f"{nearest.row} is not"
        said = f"{which}: {nearest.why}"
    elif failed:
        said = "; ".join(f"{rung.row} gave no model: {rung.why}" for rung in failed)
    else:
        said = next((rung.why for rung in found.rungs), "nothing was tried") + _elsewhere(found, case)
    each = case.references.seconds_each
    time_ = "" if each is None else f", {number(each)} s here"
    more = number(round((found.spent or 0.0) + 1 + 0.005, 2))
    return (f"Not {found.until} within {number(found.within)} of a retraining: {said}. Retraining takes {found.steps} steps on "
            f"{found.examples} examples{time_}; --within {more} ends with it.")
