"""Population: membership attacks with one threshold, on five signals. Song & Mittal 2021, arXiv:2003.10595.

    confidence   p_y                  (the loss −log p_y and the logit-scaled confidence give the same AUC: same order)
    entropy      −H(p) = Σ_i p_i log p_i
    mentr        −M(p, y),  M = −(1 − p_y) log p_y − Σ_{i≠y} p_i log(1 − p_i)         modified entropy
    margin       z_y − max_{j≠y} z_j
    correct      1[argmax z = y]; its advantage is the gap attack: accuracy on F minus accuracy on U (Yeom et al. 2018)
    AUC = P(s(x) > s(x')) + ½ P(=),  x ∈ F, x' ∈ U: holdout examples with labels that occur in F

Two-sided: above the retrained value F still looks seen, below it over-forgotten; negating a signal gives 1 − AUC.
per-class    advantage TPR − FPR of p_y against one threshold τ_y per label, each the exact best between retained examples
             and a calibration half of U; measured on F and the other half (labels without calibration data: all labels')
P            share of F above the (1 − α) quantile of p_y on the calibration half (attack P of Ye et al. 2022,
             arXiv:2111.09679), with the false-positive rate that the other half really has
Needs:    forget, holdout; retain for the thresholds per class. Classifiers.
Cost:     none beyond the forward passes.
Finds:    digits MLP with 5 % wrong labels, 60 random examples to forget: untouched 0.532, 0.515, 0.531, 0.528 (confidence,
          entropy, mentr, margin), six retrained models 0.48–0.50: no signal tells more than another.
Limits:   one threshold sees no remembered example among easy ones; per-example attacks (lira, ulira) do. Shown beside
          the verdict of `threshold`, not judged again: five views of one question would cost the others their power.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lethe.core.config import Count, Fraction, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.judge.measured import auc_value
from lethe.judge.panel import Panel
from lethe.maths.conformal import threshold
from lethe.maths.losses import margin
from lethe.maths.membership import best_threshold
from lethe.maths.statistics import clopper_pearson, wilson
from lethe.pools.subject import Subject

SIGNALS = ("confidence", "entropy", "mentr", "margin")


@config
class Population:
    """Options of the population attacks."""

    alpha: Fraction = 0.1    # false-positive rate at which attack P is calibrated   [usual]
    limit: Count = 4000      # retained examples at most; a seeded sample            [ours]
    fewest: Count = 10       # unseen examples below which nothing is reported       [ours: AUC ± 0.2 at 10]


def signals(logits: Tensor, y: Tensor) -> dict[str, np.ndarray]:
    """The five signals of each example, all higher for members, in float64 from logits.  [n, K], [n] -> each [n]

    log p_i = log σ(φ_i) and log(1 − p_i) = log σ(−φ_i) from the margins φ_i of all classes, so probabilities that round
    to 0 or 1 stay apart.
    """
    z = logits.double()
    classes = torch.arange(z.shape[1])
    each = torch.stack([margin(z, torch.full_like(y, int(c))) for c in classes], -1)     # φ_i of every class  [n, K]
    log_p, log_rest = logsigmoid(each), logsigmoid(-each)
    true = log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    others = classes != y.unsqueeze(-1)
    modified = log_rest.gather(-1, y.unsqueeze(-1)).squeeze(-1).exp() * -true - (log_p.exp() * log_rest * others).sum(-1)
    best_other = z.masked_fill(~others, -math.inf).amax(-1)
    found = {
        "confidence": true,   # log p_y: the order of p_y without its ties at 1
        "entropy": (log_p.exp() * log_p).sum(-1),
        "mentr": -modified,
        "margin": z.gather(-1, y.unsqueeze(-1)).squeeze(-1) - best_other,
        "correct": (z.argmax(-1) == y).double(),
    }
    return {key: value.numpy() for key, value in found.items()}


def class_thresholds(members: np.ndarray, y: np.ndarray, others: np.ndarray, others_y: np.ndarray, fewest: int = 2
                     ) -> tuple[dict[int, float], float]:
    """(best τ per label that has `fewest` scores on both sides, best τ of all).  [m], [m], [n], [n]"""
    found = {}
    for label in np.intersect1d(y, others_y):
        a, b = members[y == label], others[others_y == label]
        if min(len(a), len(b)) >= fewest:
            found[int(label)] = best_threshold(a, b)[0]
    return found, best_threshold(members, others)[0]


@audit(
    metrics={
        "population_auc_*": Metric("AUC of one signal ('*'), forget set against unseen data", better="lower", null=0.5),
        "population_gap": Metric("accuracy on the forget set minus accuracy on unseen data (gap attack)", (-1.0, 1.0),
                                 "lower", null=0.0),
        "population_class_advantage": Metric("TPR − FPR of the confidence with one threshold per label", (-1.0, 1.0),
                                             "lower", null=0.0),
        "population_p": Metric("share of the forget set that attack P calls member", better="lower"),
    },
    uses={"labels"},
    needs={"forget", "holdout"},
    blind="One threshold for all examples cannot see a remembered example among examples that are easy anyway.",
)
def measure(cfg: Population, subject: Subject, panel: Panel) -> list[Value]:
    task, unseen = panel.task, panel.unseen()
    if unseen.sum() < cfg.fewest:
        return []
    at = partial(_signals, subject)
    members, others = at(task.forget), {key: x[unseen] for key, x in at(task.holdout).items()}
    values = [auc_value(f"population_auc_{key}", members[key], others[key]) for key in SIGNALS]
    values.append(_difference("population_gap", members["correct"], others["correct"]))
    half = numpy_generator(panel.seed, "population halves").permutation(int(unseen.sum())) < unseen.sum() // 2
    values.append(attack_p(members["confidence"], others["confidence"][half], others["confidence"][~half], cfg.alpha))
    if task.has("retain"):
        kept = panel.part(task.retain, cfg.limit)
        labels = task.holdout.columns["y"].numpy()[unseen]
        taus, general = class_thresholds(at(kept)["confidence"], kept.columns["y"].numpy(), others["confidence"][half],
                                         labels[half])

        def called(score: np.ndarray, y: np.ndarray) -> np.ndarray:
            return (score >= np.array([taus.get(int(label), general) for label in y])).astype(float)

        mine, theirs = (called(members["confidence"], task.forget.columns["y"].numpy()),
                        called(others["confidence"][~half], labels[~half]))
        values.append(_difference("population_class_advantage", mine, theirs, thresholds=len(taus)))
    return values


def attack_p(members: np.ndarray, calibration: np.ndarray, others: np.ndarray, alpha: float) -> Value:
    """Share of members above the (1 − α) quantile of the calibration scores; `detail` has the realised FPR.  [m], [c], [n]

    The quantile is the ⌈(1 − α)(c + 1)⌉-th smallest: one more unseen score lies above it with probability at most α.
    """
    tau = threshold(torch.from_numpy(calibration), alpha)
    hits = int((members > tau).sum())
    low, high = clopper_pearson(hits, len(members))
    return Value("population_p", hits / len(members), low, high, len(members), members,
                 {"alpha": alpha, "false_positive_rate": float((others > tau).mean()), "others": len(others)})


def _difference(metric: str, mine: np.ndarray, theirs: np.ndarray, **detail: float) -> Value:
    """Difference of two shares with Newcombe's interval from Wilson's (1998).  [m], [n] of 0 and 1"""
    a, b = float(mine.mean()), float(theirs.mean())
    (low_a, high_a), (low_b, high_b) = wilson(mine.sum(), len(mine)), wilson(theirs.sum(), len(theirs))
    low = a - b - math.hypot(a - low_a, high_b - b)
    high = a - b + math.hypot(high_a - a, b - low_b)
    return Value(metric, a - b, low, high, len(mine), mine, {"forget": a, "unseen": b, **detail})


def _signals(subject: Subject, split: Split) -> dict[str, np.ndarray]:
    return signals(subject.seen(split)["logits"], split.columns["y"])
