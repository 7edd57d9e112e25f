"""Auto: try methods, settings and modifiers within a budget, score each on a part of the data, and keep the best.
Own combination (2026) of successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943) with a multi-objective tree-structured
Parzen estimator (Ozaki et al. 2020; Optuna).

    objectives   D_forget, D_utility, cost: all three small.     D = D_forget + D_utility, as `lethe.judge.candidates` has it
    round 0      the untouched model, and at their published settings as many methods as half of the trials allow, likeliest first
    round r      the better half of the methods is left; each gets 2^(r−1) trials more: settings, from r = 2 on modifiers, too
    choice       of those whose D is at most a quarter larger than the smallest, and not beyond noise (84 % of resamples of the
                 examples), the cheapest one; one that was tuned must be nearer than published settings in 95 %: the best of
                 many is best by luck, too. Where D is not smaller than the untouched model's in 95 %, nothing is changed

The likeliest: as retrained models in the runs that `lethe bench` has measured on requests like this, no mechanism before the
others. What can run is what has all that it needs of what was granted. cost: examples sent forward with gradients, in passes over
the training data. All candidates, and which of them no other beats in all three objectives, stand in `outcome.search`.

yardstick = short      two models trained without the forget set by half of the recipe's passes: it needs the recipe. `scratch`
                       trains them, and is no candidate then unless it is named; but the first of them is one, seen by the
                       other alone: it never read the forget set, and costs nothing more
yardstick = unseen     unseen data stand for them, so that those who cannot retrain can choose
yardstick = retrained  models retrained by the whole recipe. For benchmarks: whoever has these needs no other method
The search uses a seeded half of the forget set and the half of holdout that methods may learn from, the final audit the others
(all of a forget set, and a note, below 20 examples).
Needs:    forget, original; holdout (or else retain, of which a part is used); recipe for a yardstick of trained models.
Updates:  what the chosen method updates.     Cost: the budget: all trials and the models of the yardstick together.
Limits:   one trial picks the better of no change and one method.
Fails by: `unseen` cannot judge forget sets that are unlike unseen data (wrong labels, outliers): there it takes no
          change for forgetting. A note warns when the original itself is indistinguishable from a model that never saw it.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from lethe.core import catalogue
from lethe.core.alike import of_classes_that_leave
from lethe.core.config import Count, build, config, plain
from lethe.core.extras import needs_extra
from lethe.core.outcome import Outcome
from lethe.core.registry import Method, method
from lethe.core.seeds import derive
from lethe.core.task import Task
from lethe.core.words import number
from lethe.errors import NeedsUnmet, OutOfRange
from lethe.judge.candidates import Scorer, Seen
from lethe.judge.selection import SMALL
from lethe.results.odds import odds
from lethe.train.apply import accepts, all_methods, apply, fitting
from lethe.train.inner import charge
from lethe.train.loop import Loop
from lethe.train.watchdog import Watchdog

if TYPE_CHECKING:
    import optuna

SURE = 0.95        # share of resamples in which the choice is nearer than the untouched model: else it is noise   [ours]
LIKE = 0.84        # share of resamples in which a candidate is nearer, from which another is farther: one sd      [ours]
NEARLY = 1.25      # distance beside the nearest one's up to which a candidate is as near, where noise allows   [ours, mislabels]
INDISTINCT = 0.1   # distance of the untouched model below which the search reports that it cannot see             [ours]
RANGES = {"lr": (0.1, 3.0), "epochs": (0.3, 1.5), "alpha": (0.2, 5.0)}   # multiples of the published value        [ours]
OTHERS = (0.5, 2.0)                                                      # of any other positive number            [ours]
OPEN = ("perturb", "average")   # seams that any method leaves open                                               [ours]
PLAIN = ("none", "last")        # their members that change nothing
SHORT, MODELS, SHARE = "scratch", 2, 0.5    # how the yardstick is trained, how many models, of how much a recipe  [ours]
ALIKE = {"share": SHARE, "fast": False, "warm_up": 0.0}   # a faster training is less like the recipe's     [ours]
UNITS = {"s": 1, "min": 60, "h": 3600}


@config
class Auto:
    """Options of the search."""

    budget: str = ""                   # time, e.g. 90 s, 10 min, 1 h; empty: trials alone count [tested in test_auto] [ours]
    trials: Count = 24                 # runs of a method at most [tested in test_auto] [ours]
    methods: tuple[str, ...] = ()      # which methods; empty: all that can run [tested in test_auto] [ours]
    yardstick: Literal["auto", "short", "unseen", "retrained"] = "auto"   # auto: short with a recipe [tested in test_auto] [ours]


@dataclass
class Trial:
    """One candidate. distance = forgetting + utility, lower is better; infinite when it failed. cost: passes."""

    number: int
    round: int
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    modifiers: dict[str, Any] = field(default_factory=dict)
    forgetting: float = math.inf
    utility: float = math.inf
    cost: float = math.inf
    seconds: float = 0.0
    error: str = ""
    front: bool = False

    @property
    def distance(self) -> float:
        return self.forgetting + self.utility

    @property
    def named(self) -> str:
        """'renew (rate=1.4, average=ema)'."""
        options = [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
                   for key, value in {**self.settings, **self.modifiers}.items()]
        return f"{self.method} ({', '.join(options)})" if options else f"{self.method} (published settings)"


def seconds_of(budget: str) -> float:
    """'10 min' -> 600; infinite when empty."""
    match = re.fullmatch(r"\s*([\d.]+)\s*(s|min|h)\s*", budget) if budget else None
    if budget and not match:
        raise OutOfRange(f"auto.budget = {budget!r} is no time, so nothing was started. Write 90 s, 10 min or 1 h.")
    return float(match[1]) * UNITS[match[2]] if match else math.inf


def candidates(task: Task, requested: tuple[str, ...], yardstick: str = "") -> list[str]:
    """Names of the methods to try, in this order: those requested, or all that can run on what was granted, likeliest first.

    The method that trains the models of a short yardstick is none of them: it is nearest to these, whatever it is worth.
    """
    if not requested:
        return likeliest([name for name in able(task) if (name, yardstick) != (SHORT, "short")], task)
    known = fitting(task)
    for name in requested:
        if name not in known:
            raise NeedsUnmet(f"auto.methods names {name!r}, which cannot run on this task, so nothing was started. Those that "
                             f"can: {', '.join(able(task))}.")
    return list(requested)


def able(task: Task) -> list[str]:
    """Names of the methods that can run on what was granted; each is loaded to ask it."""
    return [name for name in all_methods(task) if accepts(task, catalogue.load("methods", name))]


def likeliest(names: list[str], task: Task) -> list[str]:
    """By what was measured on requests like this: the two likeliest of every mechanism before the next two."""
    known = catalogue.entries("methods")
    leaves = task.has("retain") and of_classes_that_leave(task.forget, task.retain)
    chance = {name: odds(name, "indistinguishable", task.family, task.score_name, leaves).chance for name in names}
    seen: Counter[str] = Counter()
    tier = {}
    for name in sorted(names, key=lambda one: (-chance[one], one)):
        tier[name] = seen[known[name].mechanism] // 2
        seen[known[name].mechanism] += 1
    return sorted(names, key=lambda one: (tier[one], -chance[one], one))


def ranged(cls: type) -> dict[str, tuple[float, float]]:
    """Option -> where it is sought: every positive number around its published value."""
    found = {}
    for item in dataclasses.fields(cls):
        low, high = RANGES.get(item.name, OTHERS)
        if isinstance(item.default, float) and item.default > 0:
            most = 1.0 if item.type == "Fraction" else math.inf
            found[item.name] = (low * item.default, min(high * item.default, most))
    return found


def proposed(trial: optuna.Trial, name: str, cls: type, modifiers: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings, modifiers) that Optuna proposes for a method; without settings its modifiers are all there is to try."""
    settings = {option: float(f"{trial.suggest_float(f'{name}.{option}', low, high, log=True):.3g}")
                for option, (low, high) in ranged(cls).items()}
    if settings and not modifiers:
        return settings, {}
    known = [full.split(".") for full in sorted(catalogue.entries("modifiers"))]
    chosen = {seam: trial.suggest_categorical(seam, [member for other, member in known if other == seam]) for seam in OPEN}
    return settings, {seam: member for seam, member in chosen.items() if member not in PLAIN}


def rounds(names: list[str], best: Callable[[str], float]) -> Iterator[tuple[int, str]]:
    """(round, method) of every trial, without end: all, then the better half again and again, twice as often each time."""
    left, turn = list(names), 0
    while True:
        for name in left:
            for _ in range(1 if turn == 0 else 2 ** (turn - 1)):
                yield turn, name
        left, turn = sorted(left, key=best)[: max(1, len(left) // 2)], turn + 1


class Search:
    """The candidates so far, the smallest distance, and the one model that is kept."""

    def __init__(self, task: Task, loop: Loop, score: Scorer, ends: float) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.task, self.loop, self.score, self.ends = task, loop, score, ends
        self.study = optuna.create_study(directions=["minimize"] * 3, sampler=optuna.samplers.TPESampler(seed=loop.seed))
        self.start = score.seen(task.original)
        forgetting, utility = score.distances(self.start)
        self.trials = [Trial(0, 0, "nothing", {}, {}, forgetting, utility, 0.0)]
        self.size = len(task.forget) + (len(task.retain) if task.has("retain") else 0)
        self.nearest: tuple[float, Seen] = math.inf, self.start
        self.kept: tuple[Trial, Seen, Outcome] | None = None
        self.paid: Trial | None = None   # a model of the yardstick, which is there already
        self._tell(self.trials[0])

    def enter(self, outcome: Outcome, seen: Seen) -> None:
        """A model of a short yardstick is a candidate, as at published settings."""
        trial = Trial(len(self.trials), 0, SHORT, ALIKE, {}, *self.score.distances(seen), outcome.cost.examples / self.size,
                      outcome.cost.seconds)
        self.paid = trial
        self.trials.append(trial)
        self._consider(trial, seen, outcome)
        self._tell(trial)

    def best(self, name: str) -> float:
        return min((trial.distance for trial in self.trials if trial.method == name), default=math.inf)

    def carry_out(self, names: list[str], count: int) -> None:
        """Try methods until trials or time are used up."""
        for place, (turn, name) in enumerate(rounds(names, self.best), 1):
            if place > count or time.perf_counter() >= self.ends or not names:
                return
            record = catalogue.load("methods", name)
            asked = self.study.ask() if turn else None
            settings, modifiers = proposed(asked, name, record.config, turn > 1) if asked else ({}, {})
            trial = Trial(len(self.trials), turn, name, settings, modifiers)
            if any(trial.named == other.named for other in self.trials):
                self._tell(trial, asked)   # it was tried
                continue
            self.trials.append(trial)
            self._try(trial, record)
            self._tell(trial, asked)

    def _try(self, trial: Trial, record: Method) -> None:
        """Run one candidate; enter its distances and cost, or its error."""
        loop, left = self.loop, self.ends - time.perf_counter()
        settings = loop.settings if math.isinf(left) else replace(loop.settings, max_minutes=max(left, 1e-3) / 60)
        try:
            outcome = apply(self.task, record, build(record.config, trial.settings), settings, trial.modifiers,
                            watchdog=loop.watchdog or False, progress=loop.listener, stop=loop.stop)
            charge(loop, outcome)
            trial.seconds, trial.cost = outcome.cost.seconds, outcome.cost.examples / self.size
            if any(note.startswith("stopped early") for note in outcome.notes):
                trial.error = "not finished within the budget"
            elif outcome.unchanged:
                trial.error = "nothing changed"   # the untouched model is a candidate already
            else:
                seen = self.score.seen(outcome.answering)
                trial.forgetting, trial.utility = self.score.distances(seen)
                self._consider(trial, seen, outcome)
        except Exception as error:   # any: a candidate that fails is a failed trial, and the search goes on
            trial.error = f"{type(error).__name__}: {error}"

    def _consider(self, trial: Trial, seen: Seen, outcome: Outcome) -> None:
        """Keep the best ranked of those that are as near as the nearest."""
        kept = self.kept
        if trial.distance < self.nearest[0]:
            self.nearest = trial.distance, seen
            tuned = kept is not None and trial.round > 0 == kept[0].round
            if kept is None or self._rank(trial) < self._rank(kept[0]) or (self.score.nearer(seen, kept[1], SURE) if tuned
                                                             else not self._as_near(kept[0], kept[1])):
                self.kept = trial, seen, outcome
        elif kept is None or (self._rank(trial) < self._rank(kept[0]) and self._as_near(trial, seen)):
            self.kept = trial, seen, outcome

    def _rank(self, trial: Trial) -> tuple[bool, float]:
        """What is preferred of two that are as near: published settings, then what costs less from here on."""
        return trial.round > 0, 0.0 if trial is self.paid else trial.cost

    def _as_near(self, trial: Trial, seen: Seen) -> bool:
        """Whether a candidate is as near as the nearest one: hardly farther, and not beyond noise."""
        return trial.distance <= NEARLY * self.nearest[0] and not self.score.nearer(self.nearest[1], seen, LIKE)

    def _tell(self, trial: Trial, asked: optuna.Trial | None = None) -> None:
        """Let Optuna know of a candidate."""
        from optuna.trial import TrialState, create_trial

        values = [trial.forgetting, trial.utility, trial.cost]
        sound = all(map(math.isfinite, values))
        if asked is None:
            if sound:
                self.study.add_trial(create_trial(values=values, user_attrs={"number": trial.number}))
            return
        asked.set_user_attr("number", trial.number)
        self.study.tell(asked, values if sound else None, state=None if sound else TrialState.FAIL)

    def front(self) -> set[int]:
        """Numbers of the candidates that no other beats in all three objectives."""
        return {found.user_attrs["number"] for found in self.study.best_trials}


def yardstick_of(cfg: Auto, task: Task) -> str:
    """The yardstick: the one asked for, or the best that the task allows."""
    able = task.has("recipe") and task.has("retain") and not task.recipe.code
    if cfg.yardstick in ("short", "retrained") and not able:
        raise NeedsUnmet(f"auto.yardstick = {cfg.yardstick} trains models without the forget set, and the task has no recipe to "
                         "train by, so nothing was started. Write yardstick=unseen.")
    return cfg.yardstick if cfg.yardstick != "auto" else "short" if able else "unseen"


def beside(yardstick: str, task: Task, loop: Loop, offered: bool = False) -> tuple[list[Outcome], bool]:
    """The models of a yardstick, trained without the forget set, whose cost is that of the search; and whether the first one may
    be delivered: where it is offered, the watchdog of the run judges it."""
    if yardstick == "unseen":
        return [], False
    record = catalogue.load("methods", SHORT if yardstick == "short" else "retrain")
    asked: Any = build(record.config, ALIKE if yardstick == "short" else {})

    def trained(place: int, watchdog: Watchdog | Literal[False]) -> Outcome:
        settings = replace(loop.settings, seed=derive(loop.seed, "auto yardstick", place), max_minutes=None)
        outcome = apply(task, record, asked, settings, watchdog=watchdog, progress=loop.listener, stop=loop.stop)
        charge(loop, outcome)
        return outcome

    first = trained(0, (offered and loop.watchdog) or False)
    others = [trained(place, False) for place in range(1, MODELS)]
    return [first if first.fall is None else trained(0, False), *others], offered and first.fall is None


@method(needs={"forget", "original", "retain?", "holdout?", "recipe?", "test?"}, uses=set(), mechanism="search")
def run(cfg: Auto, task: Task, loop: Loop) -> Outcome:
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise needs_extra("search", "auto", "optuna") from None
    if not (task.has("holdout") or task.has("retain")):
        raise NeedsUnmet("auto scores its candidates on holdout (or retained) data, and the task has neither, so nothing was "
                         "started. Provide one of them, or name a method.")
    task = loop.task   # the same grant with every operation of the family: it runs methods and scores what they return
    ends = time.perf_counter() + seconds_of(cfg.budget)
    yardstick = yardstick_of(cfg, task)
    known = candidates(task, cfg.methods, yardstick)
    names = known if cfg.methods else known[: max(1, cfg.trials // 2)]   # the other half of the trials goes to the better ones
    made, sound = beside(yardstick, task, loop, offered=yardstick == "short" and not cfg.methods)
    search = Search(task, loop, Scorer(task, loop.settings.device, [one.answering for one in made]), ends)
    if sound:
        search.enter(made[0], search.score.among[0])
    search.carry_out(names, cfg.trials)
    notes = [] if len(names) == len(known) else [f"{len(names)} of {len(known)} methods were tried; more trials try more of them"]
    return _outcome(search, yardstick, notes)


def _outcome(search: Search, yardstick: str, notes: list[str]) -> Outcome:
    """The model that is kept, or an untouched copy; the candidates, and the choice in words."""
    task, loop, trials, kept = search.task, search.loop, search.trials, search.kept
    loop.resume_from(loop.standing())
    nearest = kept[0] if kept else None
    if kept is not None and not search.score.nearer(kept[1], search.start, SURE):
        kept = None
    winner, front = kept[0] if kept else trials[0], search.front()
    for trial in trials:
        trial.front = trial.number in front
    findings = [explained(trials, winner, yardstick, winner is search.paid)]
    if nearest is not None and kept is None:
        findings.append(f"{nearest.method} had distance {nearest.distance:.3f}, not less than the untouched model's beyond "
                        "noise, so nothing was changed")
    if trials[0].distance < INDISTINCT:
        findings.append(f"the untouched model already has distance {trials[0].distance:.3f} by this yardstick, so it cannot "
                        "detect forgetting here; name a method" + (", or search with yardstick=short" if yardstick == "unseen"
                                                                   else ""))
    if len(task.forget) < SMALL:
        findings.append(f"the forget set has {len(task.forget)} examples, so the final audit uses those of the selection")
    lines = [line(trial, trial is winner) for trial in trials]
    notes = [*findings, *notes, *(kept[2].notes if kept else [])]
    if kept is None:
        model = task.copy_of_original().eval().requires_grad_(True)
        return Outcome(model, cost=loop.cost, notes=notes, task=task, search=lines)
    made = kept[2]
    outcome = Outcome(made.answering.requires_grad_(True), kind=made.kind, cost=loop.cost, notes=notes, task=task,
                      export=made.export, search=lines)
    outcome.fall = made.fall
    return outcome


def line(trial: Trial, chosen: bool) -> dict[str, Any]:
    """A candidate as a record; what is not finite is None."""
    values: dict[str, Any] = {**plain(trial), "distance": trial.distance, "chosen": chosen}
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()}


def explained(trials: list[Trial], winner: Trial, yardstick: str, own: bool = False) -> str:
    """Why this one, in a sentence or two. own: it is a model of the yardstick."""
    words = {"unseen": "by unseen data alone", "short": f"beside {MODELS} models trained without the data by "
             f"{number(SHARE)} of the recipe", "retrained": "beside retrained models: a benchmark"}[yardstick]
    tried = [trial for trial in trials[1:] if math.isfinite(trial.distance)]
    text = (f"auto chose {winner.named if winner.number else 'no change'} of {len(trials) - 1} trials by distance "
            f"{winner.distance:.3f} (forgetting {winner.forgetting:.3f}, utility {winner.utility:.3f}), untouched "
            f"{trials[0].distance:.3f}, {words}{', of which it is one' if own else ''}")
    published = min((trial for trial in tried if trial.round == 0), key=lambda trial: trial.distance, default=None)
    nearest = min(tried, key=lambda trial: trial.distance, default=None)
    if winner.number and nearest is not None and nearest is not winner:
        text += (f"; {nearest.named} had {nearest.distance:.3f}, no nearer beyond noise, at {number(nearest.cost)} passes over "
                 f"the data for {number(winner.cost)}")
    if winner.number and published is not None and published not in (winner, nearest):
        text += f"; the best at published settings was {published.method} with {published.distance:.3f}"
    return text
