"""Threshold: population membership attack, forget set against unseen data. Yeom et al. 2018, arXiv:1709.01604.

    AUC = P(s(x) > s(x')),  x ∈ F, x' ∈ U;      TPR@α = P(s(x) > τ_α), τ_α the lowest threshold with P(s(x') > τ_α) ≤ α

s the family's membership signal (logit-scaled confidence for classifiers; higher is more member-like), F the forget
set, U holdout examples with labels that occur in F. AUC above the retrained value: F still looks seen; below it:
over-forgotten (the Streisand effect). When F and U are not exchangeable, the retrained AUC is not 0.5; the yardstick
shows it. `mia_retain_auc` asks whether F looks like R, P(s(x) > s(x')), x' ∈ R; its target is the retrained value.
Interval: DeLong for AUC; bootstrap with a new threshold per resample, joined with Clopper–Pearson, for TPR.
Limits:   one threshold for all examples: those that every model finds easy hide one that is remembered (see `lira`).
Verdict:  the AUCs are held against the yardstick; TPRs are shown beside it with their counts.
"""

from __future__ import annotations

import math

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.measured import attack_values, auc_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class Threshold:
    """Options of the threshold attack."""

    limit: Count = 4000       # retained examples at most; a seeded sample          [ours]
    resamples: Count = 2000   # bootstrap resamples of TPR                          [usual]
    fewest: Count = 10        # unseen examples below which nothing is reported     [ours: AUC ± 0.2 at 10]


@audit(
    metrics={
        "mia_auc": Metric("AUC of the membership signal, forget set against unseen data", null=0.5),
        "mia_retain_auc": Metric("AUC of the membership signal, forget set against retain set"),
        "mia_worst": Metric("median signal over the 5 % of the forget set where it is highest", (-math.inf, math.inf),
                            "lower"),
        "mia_tpr_at_*": Metric("TPR of the attack at 1, 5 or 10 % FPR", better="lower"),
    },
    uses={"observe"},
    needs={"forget", "holdout"},
    blind="One threshold for all examples cannot see a remembered example among examples that are easy anyway.",
)
def measure(cfg: Threshold, subject: Subject, panel: Panel) -> list[Value]:
    task, unseen = panel.task, panel.unseen()
    members, others = subject.numbers(task.forget, "signal"), subject.numbers(task.holdout, "signal")[unseen]
    if len(others) < cfg.fewest:
        return []
    values = attack_values("mia", members, others, cfg.resamples)
    if task.has("retain"):
        retained = subject.numbers(panel.part(task.retain, cfg.limit), "signal")
        values.append(auc_value("mia_retain_auc", members, retained))
    return values
