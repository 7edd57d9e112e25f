"""U-LiRA: per-example attack by someone who can train and unlearn himself. Hayes et al. 2024, arXiv:2403.01218.

    Λ(x) = log p_u(φ(x)) − log p_n(φ(x)),      p_u, p_n Student predictives of φ(x) over shadow models

φ the family's membership signal. p_u: shadows that were trained with x and then forgot it by the procedure under audit;
p_n: shadows that never saw x and ran the same procedure on other examples. So the two worlds differ by x alone, and Λ
asks: was x trained on and then unlearned? Every shadow forgets a random half of the candidates (F and as many unseen
examples), so one training and one unlearning per shadow serve all examples.
Reported: AUC and TPR of Λ on F against the unseen candidates. A retrained model has AUC 0.5 for any number of
shadows; more shadows find more, so all models of a report are measured with the same number: twice as many as are needed to
distinguish the untouched original from 0.5 (8, 16, 32, …; 5 % spent evenly over the looks), at most the plan's limit. The median
over the worst 5 % of F is shown: what hides in an average.
Needs:    forget, retain, holdout, recipe (through shadows), and the procedure that made the model.
Cost:     one training per shadow for all methods, one run of the method per shadow.
Finds:    digits MLP with 5 % wrong labels, 60 random examples to forget, 8 | 16 | 32 shadows: untouched 0.68 | 0.70 | 0.72,
          nine retrained models 0.54 ± 0.03 | 0.53 ± 0.02 | 0.50 ± 0.04, while the population attack has 0.53 and 0.50.
          Random labels, where that attack has 0.28: 0.84 with 8 shadows of another draw.
Limits:   candidates are few where F is few: 60 examples give an AUC of ± 0.1.
Deviations: Gaussian densities in the paper; here Student predictives (`student_predictive`), stable from 4 models a side.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.measured import attack_values
from lethe.judge.panel import Panel
from lethe.maths.membership import log_ratio
from lethe.maths.statistics import auc_interval
from lethe.pools.shadows import BLOCK, Shadows
from lethe.pools.subject import Subject


@config
class ULiRA:
    """Options of U-LiRA."""

    models: Count = 64        # shadows at most; the plan's limit holds too                [Hayes et al.: 64 and more]
    resamples: Count = 2000   # bootstrap resamples of TPR                                 [usual]
    fewest: Count = 10        # unseen examples below which nothing is reported            [ours: AUC ± 0.2 at 10]


@audit(
    metrics={
        "ulira_auc": Metric("AUC of the likelihood ratio 'unlearned' against 'unseen', forget set against unseen data",
                            null=0.5, asks="the unlearning procedure, which a model from elsewhere does not bring"),
        "ulira_worst": Metric("median likelihood of 'unlearned' over the 5 % of the forget set where it is highest",
                              better="lower"),
        "ulira_tpr_at_*": Metric("TPR of the attack at 1, 5 or 10 % FPR", better="lower"),
    },
    uses={"observe"},
    needs={"forget", "holdout", "shadows", "procedure"},
    depth="standard",
    blind="It knows what this procedure does to models trained by this recipe; traces that the membership signal does not "
          "show are invisible to it.",
)
def measure(cfg: ULiRA, subject: Subject, panel: Panel) -> list[Value]:
    shadows = panel.shadows
    assert shadows is not None and subject.procedure is not None
    limit = min(cfg.models, shadows.limit)
    if min(side.sum() for side in shadows.sides(limit)[1:]) < cfg.fewest:
        return []
    count = panel.once(("ulira", limit), lambda: enough(panel, shadows, limit))
    members, others = ratios(subject, shadows, shadows.unlearned(subject.procedure, count))
    from scipy.special import expit

    found = attack_values("ulira", members, others, cfg.resamples, shadows=count)
    return [replace(v, value=float(expit(v.value))) if v.metric == "ulira_worst" else v for v in found]


def ratios(subject: Subject, shadows: Shadows, models: list[Subject]) -> tuple[np.ndarray, np.ndarray]:
    """Λ of the members and of the unseen candidates that have shadows on both sides.  -> [f], [u]"""
    inside, members, others = shadows.sides(len(models))
    known = members | others
    signal = subject.numbers(shadows.candidates, "signal")
    pool = np.stack([model.numbers(shadows.candidates, "signal") for model in models])
    ratio = log_ratio(signal[known], pool[:, known], inside[:, known])
    return ratio[members[known]], ratio[others[known]]


def enough(panel: Panel, shadows: Shadows, limit: int) -> int:
    """Shadows for all models: twice as many as detect the original against one that never saw the data; `limit` without it."""
    if not panel.task.has("original"):
        return limit
    looks = [k for k in (BLOCK << i for i in range(16)) if 2 * k <= limit]
    for count in looks:
        _, low, _ = auc_interval(*ratios(panel.original, shadows, shadows.trained(count)), 1 - 0.05 / len(looks))
        if low > 0.5:
            return 2 * count
    return limit
