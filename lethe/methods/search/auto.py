"""Auto: try methods and settings within a budget, score each on a part of the data, and keep the best.

    round 0: the untouched model, and at their published settings as many methods as half of the trials allow, USUAL first
    round r: the better half of the methods is left; each gets 2^(r−1) more settings, by a tree-structured Parzen estimator
    D = D_forget + D_utility on the selection part, a seeded half of the forget set and the half of holdout that methods may
    learn from; the smallest D wins where it is smaller than the untouched model's in 95 % of resamples of the examples, else
    nothing is changed

yardstick = unseen     no retrained model is used, so those who cannot retrain can make the choice (deployable):
                       D_forget = distance of the quantiles of p(forget) to those of p_original(U), U examples of holdout with
                       the same labels, 0 instead where a label is not retained at all (a model that never saw a label never
                       predicts it).  D_utility = mean |p − p_original| on the rest of holdout
yardstick = retrained  D = mean |p − mean_j p_j| to models j retrained without the forget set: on forget and on holdout. For
                       benchmarks only: whoever has these models needs no other method.
p = exp(−ℓ) of each example: the probability of the label, of the text.
The final audit uses the other half of forget (all of it, and a note, below 20 examples) and of holdout. The search stands
in `outcome.search` and in the report. Halving: Jamieson & Talwalkar (2016), arXiv:1502.07943; estimator: Bergstra et al. (2011).
Needs:    forget, original; holdout (or else retain, of which a part is used); recipe for yardstick = retrained.
Updates:  what the chosen method updates.     Cost: the budget: all trials together.
Limits:   one trial picks the better of no change and one method. Methods that need the recipe (retraining) are left out.
Fails by: `unseen` cannot judge forget sets that are unlike unseen data (wrong labels, outliers): there it takes no
          change for forgetting. A note warns when the original itself is indistinguishable from a model that never saw it.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import nn

from lethe.core import catalogue
from lethe.core.alike import of_classes_that_leave
from lethe.core.config import Count, build, config, plain
from lethe.core.evidence import Kind
from lethe.core.extras import needs_extra
from lethe.core.outcome import Outcome
from lethe.core.registry import Method, method
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.errors import NeedsUnmet, OutOfRange
from lethe.judge.panel import Panel
from lethe.judge.selection import SMALL, halves
from lethe.judge.selection import other as beside_forget
from lethe.pools.subject import Subject
from lethe.train.apply import all_methods, apply, fitting
from lethe.train.loop import Loop, Settings

USUAL = ("finetune", "scrub", "bad_teacher", "sfron", "neggrad_plus", "delete", "salun", "ssd", "blindspot", "npo",
         "random_label", "l1_sparse")   # tried first: the best default on some measured task, or cheap beside its peers  [ours]
RESAMPLES, SURE = 400, 0.95   # of the selection part: a choice that is not better in so many is noise                [ours]
INDISTINCT = 0.1   # distance of the untouched model below which the search reports that it cannot see              [ours]
RANGES = {"lr": (0.1, 3.0), "epochs": (0.3, 1.5), "alpha": (0.2, 5.0)}   # what is tried, as multiples of the published value
UNITS = {"s": 1, "min": 60, "h": 3600}


@config
class Auto:
    """Options of the search."""

    budget: str = ""                   # time, e.g. 90 s, 10 min, 1 h; empty: trials alone count [tested in test_auto] [ours]
    trials: Count = 24                 # runs of a method at most [tested in test_auto] [ours]
    methods: tuple[str, ...] = ()      # which methods; empty: all that can run without the recipe [tested in test_auto] [ours]
    yardstick: Literal["unseen", "retrained"] = "unseen"   # see above; unseen is deployable [tested in test_auto] [ours]
    references: Count = 3              # retrained models, for yardstick = retrained [tested in test_auto] [ours]


@dataclass
class Trial:
    """One candidate. distance = forgetting + utility, lower is better; infinite when it failed."""

    number: int
    round: int
    method: str
    settings: dict[str, Any]
    forgetting: float = math.inf
    utility: float = math.inf
    seconds: float = 0.0
    error: str = ""

    @property
    def distance(self) -> float:
        return self.forgetting + self.utility


def seconds_of(budget: str) -> float:
    """'10 min' -> 600; infinite when empty."""
    match = re.fullmatch(r"\s*([\d.]+)\s*(s|min|h)\s*", budget) if budget else None
    if budget and not match:
        raise OutOfRange(f"auto.budget = {budget!r} is no time, so nothing was started. Write 90 s, 10 min or 1 h.")
    return float(match[1]) * UNITS[match[2]] if match else math.inf


def candidates(task: Task, requested: tuple[str, ...]) -> list[str]:
    """Names of the methods to try, in this order: those requested, or all that can run and do not train again."""
    entries = catalogue.entries("methods")
    able = [name for name in all_methods(task) if "recipe" not in entries[name].needs]
    for name in requested:
        if name not in fitting(task):
            raise NeedsUnmet(f"auto.methods names {name!r}, which cannot run on this task, so nothing was started. Those that "
                             f"can: {', '.join(able)}.")
    return list(requested) or sorted(able, key=lambda name: (USUAL.index(name) if name in USUAL else len(USUAL), name))


class Scorer:
    """model -> (D_forget, D_utility) on the selection part, and whether a model is better than the untouched one beyond noise."""

    def __init__(self, task: Task, cfg: Auto, settings: Settings) -> None:
        self.other, self.device = beside_forget(task), settings.device
        self.view = task.replaced(forget=halves(task.forget)[0])
        forget = self.view.forget
        self.beside: list[np.ndarray] = []   # yardstick = retrained: the mean p of retrained models, on forget and the other
        if cfg.yardstick == "retrained":
            from lethe.pools.pool import train_pool

            pool = train_pool(task, count=cfg.references, seed=derive(settings.seed, "auto references"), device=settings.device)
            self.beside = [np.mean([probability(self._seen(m), split) for m in pool.models], 0) for split in (forget, self.other)]
            return
        panel = Panel(self.view, self._seen(task.original), [])
        self.before = probability(panel.original, self.other)
        like = panel.unseen() if task.has("holdout") else np.ones(len(self.other), dtype=bool)
        gone = task.has("retain") and of_classes_that_leave(forget, task.retain)
        self.kept = ~panel.removed(self.other)
        self.strange = np.zeros(1) if gone or not like.any() else self.before[like]   # what is predicted for unseen ones like F

    def __call__(self, model: nn.Module) -> tuple[float, float]:
        forget, utility, strange = self._parts(model)
        return self._far(forget, strange), float(utility.mean())

    def sure(self, model: nn.Module) -> bool:
        """Whether D is smaller than the untouched model's in 95 % of resamples of the examples, the same for both."""
        rng, gains = np.random.default_rng(0), []
        (forget, utility, strange), (start, idle, _) = self._parts(model), self._parts(self.view.original)
        for _ in range(RESAMPLES):
            f, u, s = (rng.integers(len(x), size=len(x)) for x in (forget, utility, strange))
            gains.append(self._far(start[f], strange[s]) + idle[u].mean() - self._far(forget[f], strange[s]) - utility[u].mean())
        return float(np.mean(np.array(gains) > 0)) >= SURE

    def _parts(self, model: nn.Module) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each example: p or its distance on forget, the distance on the rest; and what p on forget is held against."""
        there, rest = (probability(self._seen(model), split) for split in (self.view.forget, self.other))
        if self.beside:
            return np.abs(there - self.beside[0]), np.abs(rest - self.beside[1]), np.zeros(1)
        return there, np.abs(rest - self.before)[self.kept], self.strange

    def _far(self, forget: np.ndarray, strange: np.ndarray) -> float:
        return float(forget.mean()) if self.beside else wasserstein(forget, strange)

    def _seen(self, model: nn.Module) -> Subject:
        return Subject("candidate", model, self.view, device=self.device)


def probability(subject: Subject, split: Split) -> np.ndarray:
    """p = exp(−loss) of each example.  -> [n]"""
    p: np.ndarray = np.exp(-subject.numbers(split, "nll"))
    return p


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """Mean distance between equal quantiles of two samples.  [n], [m] -> ≥ 0"""
    places = (np.arange(max(len(x), len(y))) + 0.5) / max(len(x), len(y))
    return float(np.abs(np.quantile(x, places, method="hazen") - np.quantile(y, places, method="hazen")).mean())


def proposed(study: Any, cls: type) -> tuple[Any, dict[str, Any]]:
    """(Optuna's trial, settings) around the published settings of a config class."""
    trial, settings = study.ask(), {}
    for item in dataclasses.fields(cls):
        low, high = RANGES.get(item.name, (0.0, 0.0))
        if high and isinstance(item.default, float) and item.default > 0:
            value = trial.suggest_float(item.name, low * item.default, high * item.default, log=True)
            settings[item.name] = float(f"{value:.3g}")
    return trial, settings


def rounds(names: list[str], best: Callable[[str], float]) -> Iterator[tuple[int, str]]:
    """(round, method) of every trial, without end: all, then the better half again and again, twice as often each time."""
    left, number = list(names), 0
    while True:
        for name in left:
            for _ in range(1 if number == 0 else 2 ** (number - 1)):
                yield number, name
        left, number = sorted(left, key=best)[: max(1, len(left) // 2)], number + 1


def tried(trial: Trial, task: Task, record: Method, loop: Loop, left: float, score: Scorer) -> Outcome | None:
    """The outcome of one trial, with `left` seconds of budget; enters its distance and seconds, or its error (then None)."""
    settings = loop.settings if math.isinf(left) else replace(loop.settings, max_minutes=left / 60)
    try:
        outcome = apply(task, record, build(record.config, trial.settings), settings, watchdog=loop.watchdog or False,
                        progress=loop.listener, stop=loop.stop)
        trial.seconds = outcome.cost.seconds
        loop.cost.steps, loop.cost.examples = loop.cost.steps + outcome.cost.steps, loop.cost.examples + outcome.cost.examples
        if any(note.startswith("stopped early") for note in outcome.notes):
            trial.error = "not finished within the budget"
        elif outcome.unchanged:
            trial.error = "nothing changed"   # the untouched model is a candidate already, and the rounds are for the others
        else:
            trial.forgetting, trial.utility = score(outcome.answering)
    except Exception as error:   # any: a candidate that fails is a failed trial, and the search goes on
        trial.error = f"{type(error).__name__}: {error}"
        return None
    return outcome


@method(needs={"forget", "original", "retain?", "holdout?", "recipe?", "test?"}, uses=set(), mechanism="search")
def run(cfg: Auto, task: Task, loop: Loop) -> Outcome:
    try:
        import optuna
    except ImportError:
        raise needs_extra("search", "auto", "optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not (task.has("holdout") or task.has("retain")):
        raise NeedsUnmet("auto scores its candidates on holdout (or retained) data, and the task has neither, so nothing was "
                         "started. Provide one of them, or name a method.")
    task = loop.task   # the same grant with every operation of the family: it runs methods and scores what they return
    began, limit = time.perf_counter(), seconds_of(cfg.budget)
    known, score = candidates(task, cfg.methods), Scorer(task, cfg, loop.settings)
    names = known if cfg.methods else known[: max(1, cfg.trials // 2)]   # the other half of the trials goes to the better ones
    studies = {name: optuna.create_study(sampler=optuna.samplers.TPESampler(seed=loop.seed, n_startup_trials=3))
               for name in names}
    trials = [Trial(0, 0, "nothing", {}, *score(task.original))]
    winner, model_of = trials[0], task.copy_of_original().eval()
    kind: Kind = "weights"
    notes, export, fall = [], None, None

    def best(name: str) -> float:
        return min((t.distance for t in trials if t.method == name), default=math.inf)

    for number, (turn, name) in enumerate(rounds(names, best), 1):
        left = limit - (time.perf_counter() - began)
        if number > cfg.trials or left <= 0 or not names:
            break
        record = catalogue.load("methods", name)
        suggestion, options = proposed(studies[name], record.config) if turn else (None, {})
        trial = Trial(number, turn, name, options)
        outcome = tried(trial, task, record, loop, left, score)
        if suggestion is not None:
            if math.isfinite(trial.distance):
                studies[name].tell(suggestion, trial.distance)
            else:
                studies[name].tell(suggestion, state=optuna.trial.TrialState.FAIL)
        trials.append(trial)
        if outcome and (trial.distance, trial.seconds) < (winner.distance, winner.seconds if winner.number else math.inf):
            winner, model_of, notes, kind, export = trial, outcome.answering, outcome.notes, outcome.kind, outcome.export
            fall = outcome.fall
    if winner.number and not score.sure(model_of):
        nearest, winner, fall, kind, export = winner, trials[0], None, "weights", None
        model_of, notes = task.copy_of_original().eval(), [
            f"{nearest.method} had distance {nearest.distance:.3f}, not less than the untouched model's beyond noise, so nothing "
            "was changed"]
    if len(names) < len(known):
        notes = [f"{len(names)} of {len(known)} methods were tried; more trials try more of them", *notes]
    made = _outcome(cfg, loop, trials, winner, model_of, kind, export, notes, task)
    made.fall = fall
    return made


def _outcome(cfg: Auto, loop: Loop, trials: list[Trial], winner: Trial, model: nn.Module, kind: Kind, export: Any,
             notes: list[str], task: Task) -> Outcome:
    loop.resume_from(loop.standing())
    options = "published settings" if not winner.settings else ", ".join(f"{k}={v:g}" for k, v in winner.settings.items())
    yardstick = ("no retrained model was used: deployable" if cfg.yardstick == "unseen" else
                 "held against retrained models: a benchmark, not deployable")
    findings = [f"auto chose {winner.method} ({options}) of {len(trials) - 1} trials by distance {winner.distance:.3f}, "
                f"untouched {trials[0].distance:.3f}; yardstick {cfg.yardstick} ({yardstick})"]
    if trials[0].distance < INDISTINCT:
        findings.append(f"the untouched model already has distance {trials[0].distance:.3f} by this yardstick, so it cannot "
                        "detect forgetting here; name a method, or search with yardstick=retrained")
    if len(task.forget) < SMALL:
        findings.append(f"the forget set has {len(task.forget)} examples, so the final audit uses those of the selection")
    search = [{**plain(trial), "distance": trial.distance if math.isfinite(trial.distance) else None, "chosen": trial is winner}
              for trial in trials]
    for line in search:
        line.update({key: None for key in ("forgetting", "utility") if not math.isfinite(line[key])})
    return Outcome(model.requires_grad_(True), kind=kind, cost=loop.cost, notes=[*findings, *notes], task=task, export=export,
                   search=search)
