"""Holdout: whether the data that count as unseen were seen. Own method (2026), a check of the audit's premises.

    holdout_hard = mean over H' of score(x),   H' = holdout examples on which retrained models score below ½ on average

Every attack compares the forget set with the holdout; a model that was trained on the holdout, too, makes both look
alike and passes. What retrained models get wrong, no model gets right by learning better from the same data: only one
that saw these examples does. The retrained value is the target: a reference is judged on the examples that the others
find hard, so their values are near 0; a model trained on the holdout has nearly 1.
Needs:    holdout, references.     Cost: none beyond the forward passes.
Limits:   nothing is reported below `fewest` hard examples: where retrained models make no mistakes, this check is blind.
          Scores that are no shares of 0 to 1 (families without a right answer) have no ½, so the hardest tenth is taken.
"""

from __future__ import annotations

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class Holdout:
    """Options of the check."""

    fewest: Count = 8    # hard examples below which nothing is reported     [ours: ± 0.3]


def hard(scores: np.ndarray) -> np.ndarray:
    """Which examples are hard: mean score over the references below ½, or else the lowest tenth.  [R, n] -> [n] bool"""
    mean = scores.mean(0)
    shares = scores.min() >= 0 and scores.max() <= 1
    unseen: np.ndarray = mean < 0.5 if shares else mean <= np.quantile(mean, 0.1)
    return unseen


@audit(
    metrics={"holdout_hard": Metric("mean score on the holdout examples that retrained models get wrong")},
    uses={"labels"},
    needs={"holdout", "references"},
    depth="standard",
    blind="It sees a holdout that was trained on, not one that comes from elsewhere than the forget set.",
)
def measure(cfg: Holdout, subject: Subject, panel: Panel) -> list[Value]:
    split = panel.task.holdout
    chosen = hard(np.stack([r.numbers(split, "score") for r in panel.references]))
    if panel.task.has("forget"):
        chosen &= ~panel.removed(split)   # a class that is to vanish is wrong in every retrained model
    if chosen.sum() < cfg.fewest:
        return []
    return [mean_value("holdout_hard", subject.numbers(split, "score")[chosen])]
