"""LiRA: per-example attack with models that never saw the example. Carlini et al. 2022, arXiv:2112.03570.

    offline  Λ(x) = −log P(T_x ≥ φ_x),  T_x ~ t_{2a}(m_x, scale_x²)  the predictive of φ_x over the retrained references
    online   Λ(x) = log p_in(φ_x) − log p_out(φ_x)                   over shadow models trained with and without x

φ_x is the model's membership signal (logit-scaled confidence z_y − logsumexp_{j≠y} z_j from logits, for classifiers), m_x
and scale_x come from the other models' signals on the same x (`student_predictive`: a prior on the variance, because a
pool of 8 has no reliable one per example). Every example has its own threshold: one that all models find easy is not held
against the model, one that only this model knows is.
Offline needs no shadows: the references never saw x. Reported: AUC of Λ on F against Λ on holdout examples with labels
that occur in F, and TPR at 1, 5, 10 % FPR. A retrained model has AUC 0.5; it is left out of the pool that judges it.
Online asks more: does the model look trained on x? Each shadow is trained on the retain set and a random half of the
candidates (F and as many unseen examples); AUC, TPR and the median Λ of the worst 5 % of F are on the candidates.
Needs:    forget, holdout, references; shadows for the online attack.
Cost:     none beyond the forward passes; online one training per shadow, shared by all audits that ask for shadows.
Finds:    digits MLP with 5 % wrong labels, 60 random examples to forget, 24 references: the untouched model has AUC 0.65 and
          TPR 0.32 at 5 % FPR, references 0.50 ± 0.04 and 0.05; the population attack has 0.54 beside 0.50 ± 0.01.
          Online, each of 32 shadows attacked by K others, 120 candidates, mean AUC (5 | 15 % wrong labels), SE ± 0.01:
          K = 31: predictive 0.716 | 0.829, fixed 0.720 | 0.826, point 0.713 | 0.826, one threshold 0.541 | 0.572;
          K = 8: predictive 0.698 | 0.804, fixed 0.702 | 0.807, point 0.668 | 0.754. So the predictive is not better than
          one variance here (paired difference at 5 % −0.004 ± 0.003) and much better than one per example from few.
Limits:   offline is one-sided, so abnormally low confidence is not called member, and weaker than U-LiRA; online compares
          with models that were trained on x and have unlearned nothing.
Deviations: the paper's Gaussians are `variance='fixed'` (residual spread around each centre, one per side) and `'point'`;
          its code takes medians for centres (`centre='median'`, Gaussians only). Spreads are unbiased (ddof 1; 0 there).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.measured import attack_values
from lethe.judge.panel import Panel
from lethe.maths.membership import log_ratio, surprise
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Subject


@config
class LiRA:
    """Options of LiRA."""

    variance: Literal["predictive", "fixed", "point"] = "predictive"   # Student t | one Gaussian | one per example  [ours]
    centre: Literal["mean", "median"] = "mean"   # of the Gaussians [paper; median in its code] [only with variance=fixed]
    models: Count = 64        # shadows of the online attack at most; the plan's limit holds too   [paper: 64 and more]
    resamples: Count = 2000   # bootstrap resamples of TPR                          [usual]
    fewest: Count = 10        # unseen examples below which nothing is reported     [ours: AUC ± 0.2 at 10]


@audit(
    metrics={
        "lira_auc": Metric("AUC of the per-example likelihood-ratio attack, forget set against unseen data", null=0.5),
        "lira_worst": Metric("median Λ over the 5 % of the forget set where it is highest", (0.0, math.inf), "lower"),
        "lira_tpr_at_*": Metric("TPR of the attack at 1, 5 or 10 % FPR", better="lower"),
        "lira_online_auc": Metric("AUC of the likelihood ratio 'trained on' against 'unseen'", null=0.5,
                                  asks="shadow models"),
        "lira_online_worst": Metric("median online Λ over the 5 % of the forget set where it is highest",
                                    (-math.inf, math.inf), "lower"),
        "lira_online_tpr_at_*": Metric("TPR of the online attack at 1, 5 or 10 % FPR", better="lower"),
    },
    uses={"observe"},
    needs={"forget", "holdout", "references", "shadows?"},
    depth="standard",
    blind="It has no models that saw the data and unlearned it, so it is a lower bound on what an attacker who can run "
          "the unlearning method himself would see.",
)
def measure(cfg: LiRA, subject: Subject, panel: Panel) -> list[Value]:
    task, unseen = panel.task, panel.unseen()
    if unseen.sum() < cfg.fewest:
        return []

    def scored(model: Subject) -> np.ndarray:
        return np.concatenate([model.numbers(task.forget, "signal"), model.numbers(task.holdout, "signal")[unseen]])

    pool = np.stack([scored(r) for r in panel.references])
    ratio = surprise(scored(subject), pool, cfg.variance, centre=cfg.centre)
    values = attack_values("lira", ratio[: len(task.forget)], ratio[len(task.forget) :], cfg.resamples,
                           references=len(pool))
    return values + (_online(cfg, subject, panel.shadows) if panel.shadows else [])


def _online(cfg: LiRA, subject: Subject, shadows: Shadows) -> list[Value]:
    count = min(cfg.models, shadows.limit)
    inside, members, others = shadows.sides(count)
    known = members | others
    if min(members.sum(), others.sum()) < cfg.fewest:
        return []
    pool = np.stack([model.numbers(shadows.candidates, "signal") for model in shadows.trained(count)])
    signal = subject.numbers(shadows.candidates, "signal")
    ratio = np.full(len(signal), np.nan)
    ratio[known] = log_ratio(signal[known], pool[:, known], inside[:, known], cfg.variance, cfg.centre)
    return attack_values("lira_online", ratio[members], ratio[others], cfg.resamples, shadows=count)
