"""BASE: the true class's log-probability beside the mean over shadows. Lassila et al. 2025, arXiv:2505.24089.

    online   score(x) = ℓ(x; θ) − log mean_k exp ℓ(x; θ_k)         over shadows trained with and without x
    offline  score(x) = ℓ(x; θ) − c · log mean_k exp ℓ(x; θ_k)     over models that never saw x
    ℓ(x; θ) = log softmax(z/T)_y     at temperature T

One number per example from any number of shadows and no fitted parameter: RMIA without a population.
Needs:    forget, retain, holdout, recipe (through shadows); references for the offline attack. Classifiers.
Cost:     no training beyond the shadows that other audits use too.
Finds:    as RMIA there (same models): online K = 2: 0.708 | 0.800, 4: 0.722 | 0.814, 31: 0.729 | 0.831.
          Of retrained models the offline AUC was 0.54–0.56 for one forget set: c < 1 leaves difficulty in the score.
Limits:   as LiRA with one spread for all examples; shown beside LiRA's verdict and not judged again.
Deviations: shadows that were trained on x and that were not weigh the same however many there are of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.split import Split
from lethe.judge.measured import attack_values
from lethe.judge.panel import Panel
from lethe.maths.membership import log_mean, log_online
from lethe.pools.subject import Subject

FREE = (-math.inf, math.inf)


@config
class BASE:
    """Options of BASE."""

    models: Count = 8            # shadows at most; the plan's limit holds too         [ours]
    temperature: Positive = 2.0  # T of the softmax                                    [published code]
    c: NonNegative = 0.33        # offline: weight of the mean over models without x   [published code]
    resamples: Count = 2000      # bootstrap resamples of TPR                          [usual]
    fewest: Count = 10           # unseen examples below which nothing is reported     [ours: AUC ± 0.2 at 10]


def base_scores(log_p: np.ndarray, log_mean_p: np.ndarray, c: float = 1.0) -> np.ndarray:
    """ℓ(x; θ) − c · log mean exp ℓ(x; θ_k).  [n], [n] -> [n]"""
    return log_p - c * log_mean_p


@audit(
    metrics={
        "base_auc": Metric("AUC of BASE with shadows on both sides", better="lower", null=0.5),
        "base_worst": Metric("median score over the 5 % of the forget set where it is highest", FREE, "lower"),
        "base_tpr_at_*": Metric("TPR of the attack at 1, 5 or 10 % FPR", better="lower"),
        "base_offline_auc": Metric("AUC of BASE with models that never saw the data", better="lower", null=0.5,
                                   asks="retrained models"),
        "base_offline_worst": Metric("median offline score over the 5 % of the forget set where it is highest", FREE, "lower"),
        "base_offline_tpr_at_*": Metric("TPR of the offline attack at 1, 5 or 10 % FPR", better="lower"),
    },
    uses={"labels"},
    needs={"forget", "holdout", "shadows", "references?"},
    depth="standard",
    blind="It compares with models that have unlearned nothing; traces that the probability of the label does not show are "
          "invisible to it.",
)
def measure(cfg: BASE, subject: Subject, panel: Panel) -> list[Value]:
    shadows = panel.shadows
    assert shadows is not None
    count = min(cfg.models, shadows.limit)
    inside, members, others = shadows.sides(count)
    if min(members.sum(), others.sum()) < cfg.fewest:
        return []
    mine = log_true([subject], shadows.candidates, cfg.temperature)[0]
    pool = log_true(shadows.trained(count), shadows.candidates, cfg.temperature)
    score = base_scores(mine, log_online(pool, inside))
    values = attack_values("base", score[members], score[others], cfg.resamples, shadows=count)
    if panel.references:
        out = log_mean(log_true(panel.references, shadows.candidates, cfg.temperature))
        score = base_scores(mine, out, cfg.c)
        values += attack_values("base_offline", score[shadows.members], score[~shadows.members], cfg.resamples,
                                references=len(panel.references))
    return values


def log_true(models: Sequence[Subject], split: Split, temperature: float) -> np.ndarray:
    """log softmax(z/T)_y of each example under each model.  -> [K, n]"""
    y = split.columns["y"]
    return np.stack([-F.cross_entropy(m.seen(split)["logits"].double() / temperature, y, reduction="none").numpy()
                     for m in models])
