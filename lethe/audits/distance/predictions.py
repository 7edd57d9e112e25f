"""Predictions: how far real-valued predictions are from those of retrained models. Tarun et al. 2023, arXiv:2210.08196, use
the Wasserstein distance on the forget set.

    W₁ = mean_j (1/n) Σ_i |ŷ_(i) − ŷ^j_(i)|, ŷ_(i) sorted;     distance(x) = mean_j |ŷ(x) − ŷ^j(x)|

ŷ the model's predictions, ŷ^j those of retrained model j; with h targets both are averaged over the h. W₁ ≤ distance: W₁ sees
the distribution of answers, not which example they belong to. In units of the targets.
Held against the yardstick is W₁ on the forget set over W₁ on as many unseen rows: retrained models differ among themselves, too,
and a model of another recipe differs everywhere.
Needs:    forget, references.     Cost: none beyond the forward passes of `scores`.
Limits:   without direction: an original and an over-forgotten model can be equally far.
Finds:    California housing, MLP, districts with target > 4 forgotten, 1 seed, standard deviations of the target: retrained
          models 0.046 ± 0.006 (n = 8), original 0.52, fine-tuning 0.19 (closeness on the forget set does not find it).
"""

from __future__ import annotations

import math

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.split import Split
from lethe.judge.measured import FEWEST, mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class Predictions:
    """Options of the predictions audit."""

    limit: Count = 4000   # examples of each split at most, a seeded sample                                  [ours]


def wasserstein(p: np.ndarray, q: np.ndarray) -> float:
    """W₁ of the two samples, equally many, averaged over columns.  [n, h], [n, h]"""
    return float(np.abs(np.sort(p, 0) - np.sort(q, 0)).mean())


@audit(
    metrics={
        "wasserstein_excess": Metric("Wasserstein-1 distance of predictions to retrained models, forget set over unseen data",
                                     (0.0, math.inf), distance=True),
        "wasserstein_*": Metric("Wasserstein-1 distance of predictions to retrained models", (0.0, math.inf), "lower"),
        "prediction_distance_*": Metric("mean |prediction − retrained prediction|", (0.0, math.inf), "lower"),
    },
    uses={"targets"},
    needs={"forget", "references"},
    blind="It compares answers, not what is known inside, and tells no direction.",
)
def measure(cfg: Predictions, subject: Subject, panel: Panel) -> list[Value]:
    values = []
    for name in ("forget", "retain", "holdout"):
        if panel.task.has(name):
            split = panel.part(getattr(panel.task, name), cfg.limit)
            here, there = subject.numbers(split, "prediction"), [r.numbers(split, "prediction") for r in panel.references]
            values.append(Value(f"wasserstein_{name}", float(np.mean([wasserstein(here, p) for p in there])), n=len(split)))
            values.append(mean_value(f"prediction_distance_{name}", np.mean([np.abs(here - p).mean(1) for p in there], 0)))
    return [*values, _excess(cfg, subject, panel)]


def _excess(cfg: Predictions, subject: Subject, panel: Panel) -> Value:
    """W₁ on the forget set over W₁ on the placebo, both of equally many rows."""
    forget = panel.part(panel.task.forget, cfg.limit)
    rows, unseen = np.zeros(0, dtype=int), forget
    if panel.task.has("holdout"):
        unseen = panel.part(panel.task.holdout, cfg.limit)
        rows = panel.placebo(unseen, len(forget))

    def distance(split: Split, chosen: np.ndarray) -> float:
        here = subject.numbers(split, "prediction")[chosen]
        return float(np.mean([wasserstein(here, r.numbers(split, "prediction")[chosen]) for r in panel.references]))

    here, there = distance(forget, np.arange(len(forget))), distance(unseen, rows) if len(rows) >= FEWEST else 0.0
    return Value("wasserstein_excess", here / there if there > 0 else here, n=len(forget),
                 detail={"placebo": len(rows), "unseen": there})
