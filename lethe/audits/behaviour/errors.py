"""Errors: how well real numbers are predicted on each split, per horizon. The readouts of Tarun et al. 2023,
arXiv:2210.08196; quantile risk of Lim et al. 2019, arXiv:1912.09363.

    MAE = mean |ŷ − y|;  RMSE = √mean (ŷ − y)²;  R² = 1 − Σ(ŷ − y)² / Σ(y − ȳ)², ȳ the split's own mean
    quantile risk_τ = 2 Σ max(τ(y − ŷ), (1 − τ)(ŷ − y)) / Σ |y|,  for a point forecast: τ = 0.9 punishes what is too low

With h targets the sums run over all; the detail has MAE and quantile risks per horizon. `scores` judges the family's loss and
closeness; what stands here is for tables and shown only. R² of a narrow range of targets is low for any model.
Needs:    forget.     Cost: none beyond the forward passes of `scores`.
"""

from __future__ import annotations

import math

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject

QUANTILES = (0.1, 0.5, 0.9)


@config
class Errors:
    """Options of the errors audit."""

    limit: Count = 4000   # examples of retain, holdout and test at most, a seeded sample                    [ours]


def quantile_risk(prediction: np.ndarray, y: np.ndarray, tau: float) -> np.ndarray:
    """Per horizon.  [n, h], [n, h] -> [h]"""
    low = y - prediction
    loss = np.maximum(tau * low, (tau - 1) * low).sum(0)
    relative: np.ndarray = 2 * loss / np.maximum(np.abs(y).sum(0), 1e-12)
    return relative


@audit(
    metrics={
        "mae_*": Metric("mean absolute error", (0.0, math.inf), "lower"),
        "rmse_*": Metric("root mean squared error", (0.0, math.inf), "lower"),
        "r2_*": Metric("share of the split's variance that is explained", (-math.inf, 1.0), "higher"),
    },
    uses={"targets"},
    needs={"forget"},
    blind="Averages hide single memorised examples.",
)
def measure(cfg: Errors, subject: Subject, panel: Panel) -> list[Value]:
    values = []
    for name in ("forget", "retain", "holdout", "test"):
        if not panel.task.has(name):
            continue
        split = panel.part(getattr(panel.task, name), cfg.limit)
        prediction, y = subject.numbers(split, "prediction"), subject.numbers(split, "y")
        error = prediction - y
        mae = mean_value(f"mae_{name}", np.abs(error).mean(1))
        detail = {"mae": np.abs(error).mean(0).tolist(),
                  **{f"q{tau:g}": quantile_risk(prediction, y, tau).tolist() for tau in QUANTILES}}
        values.append(Value(mae.metric, mae.value, mae.low, mae.high, mae.n, mae.per_sample, {"per_horizon": detail}))
        values.append(Value(f"rmse_{name}", math.sqrt(float((error**2).mean())), n=len(y)))
        spread = float(((y - y.mean(0)) ** 2).sum())
        if spread > 0:
            values.append(Value(f"r2_{name}", 1 - float((error**2).sum()) / spread, n=len(y)))
    return values
