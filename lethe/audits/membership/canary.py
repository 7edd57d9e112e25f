"""Canary: an audit of the unlearning procedure in one run that can refute exactness. After Steinke, Nasr & Jagielski 2023,
arXiv:2305.08846 (privacy auditing with one training run).

    b_i ∈ {0, 1} a fair coin per canary c_i, i = 1 … m;   θ = recipe(R ∪ {c_i : b_i = 1});   θ_u = U(θ, R, {c_i : b_i = 1})
    s_i = φ(θ_u; c_i) − mean of φ(·; c_i) over the other runs' θ_u;   the k highest are guessed 1, the k lowest 0
    v of r guesses, 2k in each run, are right.   Exact unlearning leaves θ_u independent of b: v ~ Bin(r, ½), whatever s is

so p = P[Bin(r, ½) ≥ v] is exact, for a single run too, and ε ≥ ln(q/(1 − q)), q the lower Clopper–Pearson bound of v/r, bounds
what the whole pipeline tells about one canary. Runs share the canaries and differ in coins and seeds; together they are one
mechanism with a coin per run and canary, so comparing them is licensed by the same theorem. Both directions are tried (what is
over-forgotten scores below unseen data), so each gets half of the 5 %; k is fixed before any score is seen. φ is the
family's membership signal.
Canaries are unseen (holdout) examples, with wrong labels where examples have classes: nothing but memory fits them.
`canary_accuracy` is v/r: held against retrained models, for which the guesses are coin flips; theirs is the mean over many
throws, so that only the interval of the audited model's own guesses decides. `canary_epsilon` is shown, from the thrown coins;
its detail states whether exact unlearning is refuted, with p. A value of 0 shows that this attack failed, no more.
Needs:    recipe, retain, holdout and the procedure; what is examined is the procedure, on a deletion request of about m/2
          canaries instead of F. Of a model that comes without its procedure it can report nothing.
Cost:     one training for all methods and one run of the method; a retrained model is its own answer.
Finds:    digits, MLP 64-128-128-10, 1000 retained, 300 canaries, k = 30, 18 audits; share of right guesses / median ε with 1,
          2 and 4 runs: untouched .97/2.2, .95/2.2, .99/3.3; fine-tuning 5 epochs .93/1.7, .94/2.1, .98/3.1; 20 epochs with
          Adam .73/0.4, .89/1.5, .94/2.3; neggrad_plus .90/1.4, .93/2.0, .98/2.9; scrub .95/2.0, .95/2.1, .99/3.2; random_label
          .88/1.2, .87/1.3, .93/2.1; ssd .78/0.7, .72/0.6, .76/0.9; l1_sparse .85/1.1, .90/1.6, .96/2.6; retraining .51/0,
          .52/0, .51/0. All but retraining are refuted in every audit (the long fine-tuning with 1 run in 16 of 18), retraining
          in 0, 1 and 0 of 18, and in 3.2 % of 500 with coins of their own.
Limits:   r guesses cannot show more than ε = ln(q/(1 − q)) with q = 0.025^{1/r}: 2.7 for 60 (`ceiling` in the detail).
Deviations: difficulty calibration and the two directions are ours; 0-DP in b is refuted with the two-sided p.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from lethe.core.alike import class_labels
from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.seeds import derive, generator, numpy_generator
from lethe.core.split import Split, concat
from lethe.core.task import Task
from lethe.judge.panel import Panel
from lethe.maths.epsilon import one_run_bound, one_run_p
from lethe.maths.statistics import clopper_pearson
from lethe.pools.pool import Wanted
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Subject

LEVEL = 0.975   # of each direction; 95 % together
THROWS = 200    # of the coins, for the yardstick


@config
class Canary:
    """Options of the canary audit."""

    canaries: Count = 300     # m at most; half of the holdout examples are left alone                     [ours]
    guesses: Annotated[float, Field(gt=0, le=0.5)] = 0.1   # k/m on each side; the rest is not guessed     [ours]
    runs: Count = 2           # trainings with coins of their own; with one, s is φ itself                 [ours]
    delta: Annotated[float, Field(ge=0, lt=1)] = 0.0   # δ of the bound on ε; 0 refutes exactness          [ours]
    fewest: Count = 40        # canaries below which nothing is reported                                   [ours: 8 guesses]


@dataclass(frozen=True, eq=False)
class Planted:
    """One run before unlearning: the canaries, which of them were trained on, and the deletion request about those."""

    canaries: Split
    coins: np.ndarray   # [m] bool
    task: Task


def right_guesses(scores: np.ndarray, coins: np.ndarray, each: int) -> int:
    """How many guesses are right when the `each` highest scores are guessed in and the `each` lowest out.  [m], [m] bool"""
    order = np.argsort(scores, kind="stable")
    return int(coins[order[-each:]].sum()) + int((~coins[order[:each]]).sum())


def two_sided(right: int, guesses: int, canaries: int, delta: float = 0.0) -> tuple[float, float]:
    """(ε at 95 %, p of exact unlearning) of the better direction, each direction with half of the 5 %."""
    ways = (right, guesses - right)
    return (max(one_run_bound(v, guesses, canaries, delta, LEVEL) for v in ways),
            min(1.0, 2 * min(one_run_p(0.0, v, guesses, canaries, delta) for v in ways)))


@audit(
    metrics={
        "canary_accuracy": Metric("share of right guesses which canaries were trained on and then unlearned", null=0.5,
                                  asks="the unlearning procedure, and at least 80 holdout examples"),
        "canary_epsilon": Metric("lower bound at 95 % of the ε with which the procedure hides one canary", (0.0, math.inf),
                                 "lower"),
    },
    uses={"observe", "relabel"},
    needs={"retain", "holdout", "recipe", "shadows", "procedure", "references?"},
    depth="deep",
    blind="It examines the procedure on canaries, not this model on its forget set; traces that the membership signal does not "
          "show are invisible to it.",
    trains=lambda cfg, shadows, seed, depth: [tosses.wanted for tosses in [toss(cfg, shadows, seed)] if tosses],
)
def measure(cfg: Canary, subject: Subject, panel: Panel) -> list[Value]:
    shadows, procedure = panel.shadows, subject.procedure
    assert shadows is not None and procedure is not None
    planted = panel.once(("canary", cfg), lambda: plant(cfg, shadows, panel.seed))
    if not planted:
        return []
    canaries = planted[0].canaries
    if procedure.retrains:   # trained on R: what retraining makes of every request, and so are the references
        models = [subject, *panel.references[: cfg.runs - 1]]
    else:
        seeds = [derive(panel.seed, "canary", run) for run in range(cfg.runs)]
        models = panel.once(("canary", cfg, procedure.key), lambda: [
            Subject("unlearned canaries", model, panel.task, device=subject.device)
            for model in shadows.processed(procedure, [p.task for p in planted], seeds)])
    if len(models) < cfg.runs:
        return []
    signal = centred(np.stack([model.numbers(canaries, "signal") for model in models]))
    each = max(1, round(cfg.guesses * len(canaries)))
    right = sum(right_guesses(row, run.coins, each) for row, run in zip(signal, planted, strict=True))
    guesses, total = 2 * each * cfg.runs, len(canaries) * cfg.runs
    share = expected(signal, each, panel.seed) if procedure.retrains else right / guesses
    eps, p = two_sided(right, guesses, total, cfg.delta)
    detail = {"right": right, "guesses": guesses, "canaries": total, "p": p, "refuted": p < 2 * (1 - LEVEL),
              "direction": "remembered" if 2 * right > guesses else "over-forgotten", "runs": cfg.runs}
    ceiling = {**detail, "delta": cfg.delta, "ceiling": two_sided(guesses, guesses, total, cfg.delta)[0]}
    return [Value("canary_accuracy", share, *clopper_pearson(round(share * guesses), guesses), guesses, detail=detail),
            Value("canary_epsilon", eps, n=guesses, detail=ceiling)]


def expected(signal: np.ndarray, each: int, seed: int) -> float:
    """The share of right guesses about coins that the models never met, as a mean over many throws.  [K, m] -> scalar

    It is what retraining has in the long run. As a yardstick it lets the interval of the audited model alone decide.
    """
    rng = numpy_generator(seed, "canary throws")
    right = [right_guesses(row, rng.random(len(row)) < 0.5, each) for _ in range(THROWS) for row in signal]
    return float(np.mean(right)) / (2 * each)


def centred(signal: np.ndarray) -> np.ndarray:
    """Each run's signal less the mean of the others: some canaries are easier than others.  [K, m] -> [K, m]

    Retrained models would not do as the others: they were trained without wrong labels and are surer everywhere.
    """
    runs = len(signal)
    return signal if runs == 1 else signal - (signal.sum(0) - signal) / (runs - 1)


@dataclass(frozen=True)
class Tosses:
    """The canaries, for every run those whose coin fell on 1 (`coins` [m] bool), and the rest of holdout."""

    canaries: Split
    coins: list[np.ndarray]
    rest: Split
    shadows: Shadows

    @property
    def inside(self) -> list[Split]:
        return [self.canaries.subset(tossed, "forget") for tossed in self.coins]

    @property
    def wanted(self) -> Wanted:
        """For every run a model trained on R and the canaries that are inside."""
        return self.shadows.on("canaries", [concat([self.shadows.task.retain, part], "train") for part in self.inside])


def toss(cfg: Canary, shadows: Shadows, seed: int) -> Tosses | None:
    """Coins for the same canaries in every run; None where holdout is too small."""
    task = shadows.task
    count = min(cfg.canaries, len(task.holdout) // 2)
    if count < cfg.fewest:
        return None
    chosen = np.zeros(len(task.holdout), dtype=bool)
    chosen[numpy_generator(seed, "canaries").permutation(len(chosen))[:count]] = True
    canaries = mislabelled(task, task.holdout.subset(chosen, "canaries"), derive(seed, "canary labels"))
    coins = [numpy_generator(seed, "canary coins", run).random(count) < 0.5 for run in range(cfg.runs)]
    return Tosses(canaries, coins, task.holdout.subset(~chosen, "holdout"), shadows)


def plant(cfg: Canary, shadows: Shadows, seed: int) -> list[Planted]:
    """For every run coins for the same canaries, and a model trained on R and those whose coin fell on 1. Empty: too few."""
    tosses = toss(cfg, shadows, seed)
    if tosses is None:
        return []
    trained = shadows.made(tosses.wanted)
    return [Planted(tosses.canaries, tossed, shadows.task.replaced(model.model, forget=part, holdout=tosses.rest))
            for tossed, part, model in zip(tosses.coins, tosses.inside, trained, strict=True)]


def mislabelled(task: Task, split: Split, seed: int) -> Split:
    """The examples with wrong labels, in the family's sense; as they are where examples have no classes.

    Wrong answers of a text are those of its neighbours, and wrong captions are all alike: neither needs memory.
    """
    if class_labels(task.forget) is None:
        return split
    wrong = task.relabel(split.batch(np.arange(len(split)).tolist()), generator(seed))
    return Split({key: wrong.columns[key] for key in split.columns}, split.name, np.array([f"canary {i}" for i in split.ids]),
                 split.meta, split.padding)
