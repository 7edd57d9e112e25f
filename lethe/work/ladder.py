"""The rungs of a ladder: the methods that fit a task, what each is expected to cost, and which of them are worth trying.

    rungs = argmax_S  1 − Π_{m ∈ S} (1 − chance_m)   over sets S of methods with Σ cost_m ≤ within,   from the cheapest

Nothing is listed by hand. Which methods fit, how they forget and whether they are exact is what they declare; what they cost is
counted by a rehearsal on this task (`lethe.train.rehearsal`), beside that of the exact one; their chances are what `lethe bench`
has measured on requests like this (`lethe.results.odds`). A second method of one mechanism counts for less, since it fails where
the first did.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lethe.core import catalogue
from lethe.core.alike import of_classes_that_leave
from lethe.core.outcome import Cost
from lethe.core.registry import Method
from lethe.core.task import Task
from lethe.errors import NeedsUnmet, OutOfRange, RequestError
from lethe.judge.band import ENOUGH
from lethe.results.odds import Odds, odds
from lethe.train.apply import accepts, alone
from lethe.train.rehearsal import rehearsed, shares, shrunk
from lethe.work.job import Job, Run

RETRAINING = "retrain"   # the method that carries out the recipe again
LEAST = 0.05    # chance below which a method is not worth its judging                                [ours]
AGAIN = 2       # methods of one mechanism at most                                                    [ours]
MOST = 4        # methods of which one may become a policy                                            [ours]
SURE = 1e6      # worth of a method that cannot fail
FINE = 1000     # steps of the budget, in which costs are counted


@dataclass(frozen=True)
class Rung:
    """One method that may be tried. cost: expected, in retrainings. exact: its model never reads the forget set."""

    run: Run
    cost: float
    odds: Odds
    exact: bool

    @property
    def sure(self) -> bool:
        """Whether it is retraining itself, which cannot fail."""
        return self.run.method == RETRAINING

    @property
    def chance(self) -> float:
        """The chance that its model is as requested."""
        return 1.0 if self.sure else self.odds.chance

    @property
    def worth(self) -> float:
        """−log of the chance that it fails."""
        return SURE if self.sure else -math.log1p(-self.chance)


@dataclass(frozen=True)
class Ladder:
    """What is tried, from the cheapest, and what one retraining costs.

    beyond  the exact one, where the budget does not reach it
    """

    rungs: tuple[Rung, ...]
    whole: Cost
    beyond: Rung | None


def require_judged(job: Job) -> None:
    """What a ladder needs of a request that the request itself tells; raises before a model or data are read."""
    if job.judging.references < ENOUGH:
        raise OutOfRange(f"audit.references = {job.judging.references}: a ladder judges by retrained models, and fewer than "
                         f"{ENOUGH} do not say where one more would lie; nothing was started. Write audit.references=8.")
    if job.settings.distribution != "none":
        raise RequestError("a ladder judges each model before it tries the next, which processes of one run cannot share; "
                           "nothing was started. Leave out settings.distribution, or --until.")


def require_climbable(task: Task) -> None:
    """What a ladder needs of a task; raises before anything is trained."""
    if not (task.has("recipe") and task.has("retain")):
        raise NeedsUnmet("a ladder ends where a model is like those retrained without the data, and this request cannot retrain "
                         f"any ({task.facts.get('no_retraining') or 'it has no recipe'}), so nothing was started. State how the "
                         "model was trained (recipe:), or choose a method: lethe run REQUEST method=…")
    if task.recipe.code:
        raise RequestError("recipe.code trains by a function of your own, whose steps cannot be counted, so no share of a "
                           "retraining can be kept to; nothing was started. Leave out --until and choose a method.")


def ladder(job: Job, task: Task) -> Ladder:
    """The ladder of a task. OutOfRange where the budget allows not even the cheapest method."""
    assert job.climb is not None
    require_climbable(task)
    unplanned: dict[str, str] = {}
    found = _rungs(job, task, unplanned)
    chosen = affordable(_best(found), job.climb.within)
    last = next(rung for rung in found if rung.sure)
    if not chosen:
        least = min(_best(found), key=lambda rung: rung.cost)
        raise OutOfRange(f"--within {job.climb.within:g}: no method that may pass costs so little. The cheapest is "
                         f"{least.run.method}, expected at {least.cost:.2g} of a retraining; nothing was started. Allow more, "
                         f"e.g. --within {max(0.3, math.ceil(100 * least.cost) / 100):g}.{_untold(found, unplanned)}")
    return Ladder(tuple(sorted(chosen, key=lambda rung: (rung.cost, -rung.chance, rung.run.name))), one_retraining(job, task),
                  None if last in chosen else last)


def _untold(found: Sequence[Rung], unplanned: Mapping[str, str]) -> str:
    """Why there is no method but retraining; '' where there is one."""
    told = [f" {name} fits, but what it costs cannot be told beforehand ({why}); choose it yourself: method={name}."
            for name, why in unplanned.items()]
    return "" if any(not rung.sure for rung in found) else "".join(told)


def candidates(job: Job, task: Task) -> list[Rung]:
    """The methods of which one may become a policy: each within the budget by itself, the likeliest first."""
    assert job.climb is not None
    within = job.climb.within
    able = sorted((rung for rung in _best(_rungs(job, task)) if rung.cost <= within + 1e-9),
                  key=lambda rung: (-rung.chance, rung.cost, rung.run.name))
    if not able:
        raise OutOfRange(f"--within {within:g}: no method that may pass costs so little; nothing was started. Allow more.")
    return able[:MOST]


def one_retraining(job: Job, task: Task) -> Cost:
    """The steps and examples of one retraining."""
    record = catalogue.load("methods", RETRAINING)
    return rehearsed(task, record, record.config(), job.settings)


def _rungs(job: Job, task: Task, unplanned: dict[str, str] | None = None) -> list[Rung]:
    """Every method that fits and has a chance, with its cost and its chance. What trains by a share of the recipe is rehearsed on
    all data: of fewer the share is rounded to other steps, and 0.31 for 0.30 would be beyond a budget of 0.3.

    unplanned  takes the methods that cannot be rehearsed, and why
    """
    small = shrunk(task, job.settings.seed)
    able = [record for name in alone(task) if _accepts(task, record := catalogue.load("methods", name))]
    parts = {"recipe": (task, one_retraining(job, task)), "": (small, one_retraining(job, small))}
    return [rung for record in able
            if (rung := _rung(job, *parts["recipe" if "recipe" in record.needs else ""], record,
                              {} if unplanned is None else unplanned)) is not None]


def affordable(rungs: Sequence[Rung], within: float) -> list[Rung]:
    """The set of rungs that fits into the budget and is the likeliest to hold one that passes: a knapsack."""
    weights = {rung.run.name: math.ceil(FINE * rung.cost - 1e-6) for rung in rungs}
    room = min(math.floor(FINE * within + 1e-6), sum(weights.values()))
    best: list[tuple[float, tuple[Rung, ...]]] = [(0.0, ())] * (room + 1)
    for rung, worth in _discounted(rungs):
        weight = weights[rung.run.name]
        for left in range(room, weight - 1, -1):
            value, others = best[left - weight]
            if value + worth > best[left][0]:
                best[left] = value + worth, (*others, rung)
    return list(best[room][1])


def _discounted(rungs: Sequence[Rung]) -> list[tuple[Rung, float]]:
    """Every rung with its worth; halved where a better one forgets in the same way."""
    seen: set[str] = set()
    found = []
    for rung in rungs:
        found.append((rung, rung.worth / (2 if _kind(rung) in seen else 1)))
        seen.add(_kind(rung))
    return found


def _best(rungs: Sequence[Rung]) -> list[Rung]:
    """Of each kind the few with the least cost for their chance, of those that may pass and cost less than the exact one."""
    kinds: dict[str, list[Rung]] = defaultdict(list)
    for rung in sorted(rungs, key=lambda rung: (rung.cost / rung.chance, rung.run.name)):
        if rung.sure or rung.cost < 1:
            kinds[_kind(rung)].append(rung)
    return [rung for same in kinds.values() for rung in same[:AGAIN]]


def _kind(rung: Rung) -> str:
    """How it forgets, and whether it trains by the recipe."""
    return f"{rung.run.record.mechanism}{' by the recipe' if 'recipe' in rung.run.record.needs else ''}"


def _rung(job: Job, task: Task, whole: Cost, record: Method, unplanned: dict[str, str]) -> Rung | None:
    """A method as a rung; None where its chance is too small, or it refuses or fails."""
    assert job.climb is not None
    cfg, leaves = record.config(), of_classes_that_leave(task.forget, task.retain)
    known = odds(record.name, job.climb.until, task.family, task.score_name, leaves, exact=_is_exact(record))
    if known.chance < LEAST and record.name != RETRAINING:
        return None
    try:
        cost = shares(rehearsed(task, record, cfg, job.settings, job.seams), whole)
    except Exception as error:   # any: what cannot be rehearsed cannot be planned, and the others can
        unplanned[record.name] = str(error).split(", so nothing was")[0]
        return None
    run = Run(record, cfg, record.name, record.name, 1, job.settings.seed)
    return Rung(run, cost, known, _is_exact(record))


def _is_exact(record: Method) -> bool:
    """Whether it gives by itself what training without the data would have given: no model needs to have been trained for it."""
    return record.mechanism == "exact"


def _accepts(task: Task, record: Method) -> bool:
    """Whether a method can run on a task at its defaults and changes the weights."""
    return accepts(task, record) and record.mechanism != "guard"
