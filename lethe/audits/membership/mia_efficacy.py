"""MIA efficacy: share of the forget set that an attack calls non-member. Jia et al. 2023, arXiv:2304.04934.

    efficacy = |{x ∈ F : p_y(x) < τ}| / |F|,      τ = argmax_t P_R(p_y ≥ t) − P_U(p_y ≥ t)

p_y confidence of the model in the true label; τ the exact best threshold between retained (R) and unseen (U) examples,
fitted on one half of both. The other half tells the attack's own power: its AUC between R and U. Below 0.55 the attack
separates nothing, and no efficacy is reported, only the power and the reason.
Higher is not better: the target is the value of retrained models, two-sided.
compat="svc": the number that papers print (Fan et al. 2024, arXiv:2310.12508, and others): an RBF support vector classifier
with C = 3 and gamma = 1 on p_y, members the first |U| retained examples, non-members all unseen ones.
Needs:    forget, retain, holdout. Classifiers.
Cost:     none beyond the forward passes; compat="svc" is quadratic in |U|.
Finds:    digits MLP with 5 % wrong labels, 60 random examples to forget: untouched 0.10, fine-tuning 0.10, six retrained
          models 0.10 to 0.25: inside the spread of retraining; only random labels (0.55) are not. Power 0.55–0.57.
Limits:   one threshold; an average that hides memorised examples. A model that generalises well leaves it no power.
Deviations: the published attack is a support vector classifier that may learn islands, reports no power of its own, and
          takes the first retained examples unshuffled.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from lethe.core.config import Count, Fraction, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.judge.measured import auc_value, mean_value
from lethe.judge.panel import Panel
from lethe.maths.membership import best_threshold
from lethe.pools.subject import Subject


@config
class MIAEfficacy:
    """Options of MIA efficacy."""

    compat: Literal["threshold", "svc"] = "threshold"   # best | as published [ours; Jia et al.] [only with power=0.0]
    power: Fraction = 0.55    # AUC of the attack on retained against unseen data below which it is silent  [ours]
    limit: Count = 4000       # retained examples at most; a seeded sample                                  [ours]
    fewest: Count = 20        # unseen examples below which nothing is reported [ours: 10 to fit on] [only with power=0.0]


def threshold_efficacy(members: np.ndarray, others: np.ndarray, forget: np.ndarray) -> np.ndarray:
    """Which forget examples score below the best threshold between members and others.  [m], [n], [f] -> [f] of 0 and 1"""
    return (forget < best_threshold(members, others)[0]).astype(float)


def svc_efficacy(members: np.ndarray, others: np.ndarray, forget: np.ndarray) -> np.ndarray:
    """Which forget examples the published classifier calls non-member.  [m], [n], [f] -> [f] of 0 and 1"""
    from sklearn.svm import SVC

    known = np.concatenate([members, others])[:, None]
    called = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    outside: np.ndarray = 1 - SVC(C=3, gamma="auto", kernel="rbf").fit(known, called).predict(forget[:, None])
    return outside


@audit(
    metrics={
        "mia_efficacy": Metric("share of the forget set that a threshold between retained and unseen data calls unseen"),
        "mia_efficacy_svc": Metric("share of the forget set that the published support vector classifier calls unseen",
                                   better="higher"),
        "mia_efficacy_power": Metric("AUC of the attack's confidence on retained against unseen data", better="higher", null=0.5),
    },
    uses={"labels"},
    needs={"forget", "retain", "holdout"},
    blind="It is an average over one threshold: a few remembered examples do not move it.",
)
def measure(cfg: MIAEfficacy, subject: Subject, panel: Panel) -> list[Value]:
    task = panel.task
    usable = ~panel.removed(task.holdout)    # a class that is to vanish has no retained members to compare with
    if usable.sum() < cfg.fewest or len(task.retain) < cfg.fewest:
        return []
    retained, unseen = confidence(subject, panel.part(task.retain, cfg.limit)), confidence(subject, task.holdout)
    forget, own = confidence(subject, task.forget), unseen[usable]
    fit_r, fit_u = (numpy_generator(panel.seed, "efficacy", name).permutation(len(x)) < len(x) // 2
                    for name, x in (("retain", retained), ("unseen", own)))
    power = auc_value("mia_efficacy_power", retained[~fit_r], own[~fit_u])
    if power.value < cfg.power:
        reason = (f"no power: the attack separates retained from unseen data with AUC {power.value:.2f}, below {cfg.power:g}, so "
                  "what it calls the forget set means nothing and is not reported")
        return [Value(power.metric, power.value, power.low, power.high, power.n, detail={"reason": reason})]
    values = [Value(power.metric, power.value, power.low, power.high, power.n)]
    if cfg.compat == "svc":
        first = confidence(subject, task.retain)[: len(unseen)]
        values.append(mean_value("mia_efficacy_svc", svc_efficacy(first, unseen, forget)))
    else:
        values.append(mean_value("mia_efficacy", threshold_efficacy(retained[fit_r], own[fit_u], forget)))
    return values


def confidence(subject: Subject, split: Split) -> np.ndarray:
    """p_y in float32, as the published code has it.  -> [n]"""
    p = torch.softmax(subject.seen(split)["logits"], -1)
    return p.gather(-1, split.columns["y"].unsqueeze(-1)).squeeze(-1).numpy()
