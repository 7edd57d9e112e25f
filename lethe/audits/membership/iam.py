"""IAM: how far an example has come back from 'learned' to 'unseen'. Wang et al. 2025, arXiv:2506.06112.

    v_α = s_n(x) + α (s_o(x) − s_n(x)),   α on a grid in (0, 1]
    membership(x) = Σ_α α · C((s(x) − v_α) / σ) / Σ_α α,         completeness = 1 − mean over F

s is the membership signal under the audited model, s_o under the original, s_n under models that never saw x (one is
enough; the references, their mean), C the normal or Gumbel distribution function. A model that looks like the original on
x has membership ½ or more, one that is back at s_n has ½ where both agree and less the further the original was away.
σ is the spread of one model's signal around s_n: on holdout data, which neither has seen, the original differs from s_n by
noise alone, so σ² = mean (s_o − s_n)² / (1 + 1/R) over the holdout, R models in s_n.
Needs:    forget, holdout, original, references.      Cost: none beyond the forward passes.
Finds:    digits MLP with 5 % wrong labels, 60 to forget: completeness 0.40 untouched, 0.40 of fine-tuning, retrained
          models 0.59–0.67. Spearman correlation of membership with U-LiRA's ratio (8 shadows) over F, one | eight never-trained:
          untouched 0.53 | 0.56, fine-tuning 0.31 | 0.34, random labels −0.31 | −0.26.
Limits:   random labels push the signal below unseen: IAM calls that complete (0.97), U-LiRA finds it (AUC 0.84). What the
          original did not fit has nothing to lose; the retrained value is not ½. Shown beside the verdicts of lira and ulira.
Deviations: σ is estimated on holdout data, the same for one shadow and for many; the published code takes it over shadows,
          or over all examples when there is one shadow.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.measured import mean_value, worst_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject

EULER = 0.5772156649015329


@config
class IAM:
    """Options of IAM."""

    models: Count = 1      # never-trained models in s_n at most                     [Wang et al.: one suffices]
    grid: Count = 100      # values of α                                             [published code]
    law: Literal["normal", "gumbel"] = "normal"   # C                                [published code has both]


def membership(
    signal: np.ndarray, original: np.ndarray, never: np.ndarray, sigma: float, grid: int = 100, law: str = "normal"
) -> np.ndarray:
    """Σ α·C((s − v_α)/σ) / Σ α of each example.  [n], [n], [n], scalar -> [n]"""
    from scipy.special import ndtr

    alpha = np.arange(1, grid + 1) / grid
    z = (signal - never - alpha[:, None] * (original - never)) / max(sigma, 1e-12)     # [grid, n]
    if law == "gumbel":   # by moments: β = √6/π, mode −γβ, so mean 0 and variance 1
        beta = np.sqrt(6) / np.pi
        inside = np.exp(-np.exp(np.clip(-(z / beta + EULER), -700, 700)))
    else:
        inside = ndtr(z)
    mean: np.ndarray = alpha @ inside / alpha.sum()
    return mean


@audit(
    metrics={
        "iam_completeness": Metric("1 − mean membership of the forget set on the way from unseen to original",
                                   better="higher"),
        "iam_worst": Metric("median membership over the 5 % of the forget set where it is highest", better="lower"),
    },
    uses={"observe"},
    needs={"forget", "holdout", "original", "references"},
    depth="standard",
    blind="It looks only along the line from a never-trained signal to the original's; other traces are invisible to it.",
)
def measure(cfg: IAM, subject: Subject, panel: Panel) -> list[Value]:
    task, pool = panel.task, panel.references[: cfg.models]
    never, unseen = (np.mean([r.numbers(split, "signal") for r in pool], 0) for split in (task.forget, task.holdout))
    noise = panel.original.numbers(task.holdout, "signal") - unseen
    sigma = float(np.sqrt((noise**2).mean() / (1 + 1 / len(pool))))
    scores = membership(subject.numbers(task.forget, "signal"), panel.original.numbers(task.forget, "signal"), never, sigma,
                       cfg.grid, cfg.law)
    complete = mean_value("iam_completeness", 1 - scores)
    return [complete, worst_value("iam_worst", scores)]
