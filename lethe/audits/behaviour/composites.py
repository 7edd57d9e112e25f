"""Composites: the single numbers of unlearning tables, beside their signed parts. Average gap: Jia et al. 2023,
arXiv:2304.04934, and Fan et al. 2024, arXiv:2310.12508. ToW: Zhao et al. 2024, arXiv:2406.01257. AUS: Cotogni et al. 2023,
arXiv:2312.02052. NoMUS: Choi & Na 2023, arXiv:2311.02240.

    Δ_S = a_S(M) − mean_j a_S(M_j),  S ∈ {F, R, T};    Δ_MIA likewise from MIA = share of F that the attack calls unseen
    average gap = ¼ (|Δ_F| + |Δ_R| + |Δ_T| + |Δ_MIA|)
    ToW = mean_j Π_{S∈{F,R,T}} (1 − |a_S(M) − a_S(M_j)|);     ToW-MIA: the factor of F with MIA in place of a_F
    AUS = (1 − (a_T(M_0) − a_T(M))) / (1 + Δ),  Δ = |a_T(M) − a_F(M)| for random examples, a_F(M) for a removed class
    retention_S = a_S(M) / mean_j a_S(M_j),  S ∈ {R, T}
    compat:  indiscernibility = 1 − 2 |A − ½|;   NoMUS = ½ a_T(M) + ½ · indiscernibility

a_S(M) mean score of model M on S (accuracy; closeness for regression), M_j the retrained models, M_0 the original, T test
(holdout where there is none). When a class is removed T keeps the other classes and a_F of AUS is the score on holdout
examples of the removed one. The attack: the threshold on the membership signal that separates R from T best (same size).
A: cross-validated accuracy of a logistic attack by the loss, F against as many examples of T.
The average gap is held against the yardstick; a retrained model has one, too. Everything else is shown.
Needs:    forget, retain, holdout, references; original for AUS.     Cost: nothing beyond the forward passes of `scores`.
Limits:   absolute values: over-forgetting and under-forgetting look alike, so the signed parts stand beside. AUS exceeds 1
          when test accuracy rises and asks for accuracy 0 on a removed class even where retraining has more. NoMUS and
          indiscernibility take chance as their target, which a removed class has not (retrained models there: see detail).
Deviations: a threshold in place of the SVC of the published MIA efficacy: on one feature both are an interval of it.
"""

from __future__ import annotations

import math

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.membership import best_threshold
from lethe.maths.statistics import mean_interval
from lethe.pools.subject import Subject

PARTS = ("forget", "retain", "test")


@config
class Composites:
    """Options of the composites."""

    limit: Count = 4000       # examples of retain and test at most, a seeded sample                            [ours]
    fewest: Count = 10        # examples of forget and of T below which nothing is reported                     [ours]
    folds: Count = 5          # of the cross-validated attack of `compat` [usual] [only with compat=true]
    compat: bool = False      # report NoMUS and indiscernibility too, to compare with published numbers        [ours]


def tug_of_war(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Π (1 − |a − b|) over the parts.  [3], [R, 3] -> [R]"""
    closeness: np.ndarray = (1 - np.abs(here - there)).prod(-1)
    return closeness


def aus(original_test: float, test: float, forget: float, removed: bool) -> float:
    """Adaptive unlearning score; `removed`: a whole class is forgotten, so its target accuracy is 0."""
    return (1 - (original_test - test)) / (1 + abs((0.0 if removed else test) - forget))


def efficacy(forget: np.ndarray, retain: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Which forget examples the attack calls unseen: signal below the best threshold between retain and test.  -> [n] 0/1"""
    return (forget < best_threshold(retain, test)[0]).astype(float)


def logistic_accuracy(members: np.ndarray, others: np.ndarray, folds: int) -> float:
    """Cross-validated accuracy of a logistic attack on one feature, both sides equally many.  [n], [n] -> in [0, 1]"""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    x, y = np.concatenate([members, others])[:, None], np.repeat([1, 0], [len(members), len(others)])
    parts = StratifiedKFold(folds, shuffle=True, random_state=0)
    return float(cross_val_score(LogisticRegression(), x, y, cv=parts, scoring="accuracy").mean())


@audit(
    metrics={
        "average_gap": Metric("mean |gap to retrained| of forget, retain and test score and of MIA efficacy", distance=True),
        "gap_*": Metric("score minus that of retrained models on one part (0 is the aim; the sign tells the side)", (-1.0, 1.0),
                        "lower"),
        "mia_efficacy": Metric("share of the forget set that a threshold between retain and test calls unseen", better="higher"),
        "tow": Metric("tug of war: product of 1 − |gap| over forget, retain and test score", better="higher"),
        "tow_mia": Metric("tug of war with MIA efficacy in place of the forget score", better="higher"),
        "aus": Metric("adaptive unlearning score", (0.0, 2.0), "higher", asks="the original model"),
        "retention_*": Metric("score over that of retrained models", (0.0, math.inf), "higher"),
        "indiscernibility": Metric("1 − 2·|accuracy of a logistic attack − ½|", better="higher", asks="compat: true"),
        "nomus": Metric("½ test score + ½ indiscernibility", better="higher", asks="compat: true"),
    },
    uses={"inputs"},
    needs={"forget", "retain", "holdout", "references"},
    blind="One number for four: a loss on one part can hide behind the others, and absolute gaps have no direction.",
)
def measure(cfg: Composites, subject: Subject, panel: Panel) -> list[Value]:
    task = panel.task
    test, gone = _test(cfg, panel)
    forget, retain = task.forget, panel.part(task.retain, cfg.limit)
    parts = {"forget": (forget, np.ones(len(forget), dtype=bool)), "retain": (retain, np.ones(len(retain), dtype=bool)),
             "test": (test, ~gone)}
    if min(len(forget), int((~gone).sum())) < cfg.fewest:
        return []

    def scores(model: Subject) -> dict[str, np.ndarray]:
        return {name: model.numbers(split, "score")[kept] for name, (split, kept) in parts.items()}

    def attacked(model: Subject) -> np.ndarray:
        known, unseen = model.numbers(retain, "signal"), model.numbers(test, "signal")[~gone]
        size = min(len(known), len(unseen))
        return efficacy(model.numbers(forget, "signal"), _some(known, size, panel.seed), _some(unseen, size, panel.seed))

    mine, theirs = scores(subject), [scores(r) for r in panel.references]
    found, others = attacked(subject), [attacked(r) for r in panel.references]
    values = [mean_value(f"gap_{name}", mine[name] - np.mean([t[name] for t in theirs], 0)) for name in PARTS]
    values.append(mean_value("gap_mia", found - np.mean(others, 0)))
    here = np.array([*(mine[name].mean() for name in PARTS), found.mean()])
    there = np.array([[*(t[name].mean() for name in PARTS), o.mean()] for t, o in zip(theirs, others, strict=True)])
    signed = dict(zip((*PARTS, "mia"), (here - there.mean(0)).tolist(), strict=True))
    result = [Value("average_gap", float(np.abs(list(signed.values())).mean()), n=len(forget), detail={"signed": signed}),
              *values, mean_value("mia_efficacy", found)]
    result += [_over("tow", tug_of_war(here[:3], there[:, :3]), len(forget)),
               _over("tow_mia", tug_of_war(here[[3, 1, 2]], there[:, [3, 1, 2]]), len(forget))]
    result += [Value(f"retention_{name}", float(here[i] / there[:, i].mean()), n=len(mine[name]))
               for i, name in ((1, "retain"), (2, "test")) if there[:, i].mean() > 0]
    if task.has("original"):
        removed = gone.any()
        left = subject.numbers(test, "score")[gone].mean() if removed else here[0]
        before = panel.original.numbers(test, "score")[~gone].mean()
        result.append(Value("aus", aus(float(before), float(here[2]), float(left), bool(removed)), n=len(forget)))
    if cfg.compat:
        result += _published(cfg, subject, panel, test, ~gone, float(here[2]))
    return result


def _published(cfg: Composites, subject: Subject, panel: Panel, test: Split, kept: np.ndarray, score: float) -> list[Value]:
    """NoMUS and indiscernibility, as their papers define them."""
    size = min(len(panel.task.forget), int(kept.sum()))
    sides = (subject.numbers(panel.task.forget, "nll"), subject.numbers(test, "nll")[kept])
    accuracy = logistic_accuracy(_some(sides[0], size, panel.seed), _some(sides[1], size, panel.seed), cfg.folds)
    hidden = 1 - 2 * abs(accuracy - 0.5)
    return [Value("indiscernibility", hidden, n=size, detail={"attack_accuracy": accuracy}),
            Value("nomus", (score + hidden) / 2, n=size)]


def _test(cfg: Composites, panel: Panel) -> tuple[Split, np.ndarray]:
    """T and which of its examples have a label that is to vanish."""
    split = panel.part(panel.task.test if panel.task.has("test") else panel.task.holdout, cfg.limit)
    return split, panel.removed(split)


def _some(x: np.ndarray, size: int, seed: int) -> np.ndarray:
    """A seeded sample, so that both sides of an attack are equally many."""
    return x if len(x) == size else x[numpy_generator(seed, "composites", len(x), size).permutation(len(x))[:size]]


def _over(metric: str, values: np.ndarray, n: int) -> Value:
    """The mean over the retrained models with its t-interval over them."""
    low, high = mean_interval(values)
    return Value(metric, float(values.mean()), low, high, n, detail={"per_reference": values.tolist()})
