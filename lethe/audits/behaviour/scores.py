"""Scores: how well a model does on each split, beside models retrained without the forget set. The readouts of Golatkar
et al. 2020, arXiv:1911.04933; unlearning, retain and test accuracy of Jia et al. 2023, arXiv:2304.04934.

    forget_s = mean_{x∈F} score(x);   retain_s, holdout_s, test_s likewise;   *_loss = mean training loss

`score` is the family's own measure (accuracy for classifiers; 1 − forget_accuracy is "unlearning accuracy"). Low forget
accuracy is not the aim: the aim is what a retrained model scores. When a class is removed, holdout and test keep the
examples of retained labels, and `removed_s` is the score on holdout examples of the labels that are to vanish.
Interval: Wilson for scores that are 0 or 1, t of the mean otherwise. The gap is to the yardstick (`Evidence.gap`).
Cost:     one forward pass per split; retain, holdout and test are sampled down to `limit`.
"""

from __future__ import annotations

import math

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.split import Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class Scores:
    """Options of the scores audit."""

    limit: Count = 4000   # examples of retain, holdout and test at most, a seeded sample      [ours: ±1.6 % at 4000]


@audit(
    metrics={
        "forget_loss": Metric("mean training loss on the forget set", (0.0, math.inf), moves=True),
        "removed_loss": Metric("mean training loss on holdout examples of removed labels", (0.0, math.inf), moves=True),
        "retain_loss": Metric("mean training loss on the retain set", (0.0, math.inf), "lower", "utility"),
        "holdout_loss": Metric("mean training loss on holdout, retained labels", (0.0, math.inf), "lower", "utility"),
        "test_loss": Metric("mean training loss on test, retained labels", (0.0, math.inf), "lower", "utility"),
        "forget_*": Metric("mean score on the forget set"),
        "removed_*": Metric("mean score on holdout examples of removed labels"),
        "retain_*": Metric("mean score on the retain set", better="higher", tier="utility"),
        "holdout_*": Metric("mean score on holdout, retained labels", better="higher", tier="utility"),
        "test_*": Metric("mean score on test, retained labels", better="higher", tier="utility"),
    },
    uses={"observe"},
    needs={"forget"},
    blind="Averages hide single memorised examples, and a model that only suppresses its answers scores like one that "
          "forgot.",
)
def measure(cfg: Scores, subject: Subject, panel: Panel) -> list[Value]:
    parts: dict[str, tuple[Split, np.ndarray]] = {
        "forget": (panel.task.forget, np.ones(len(panel.task.forget), dtype=bool))}
    for name in ("retain", "holdout", "test"):
        if panel.task.has(name):
            split = panel.part(getattr(panel.task, name), cfg.limit)
            gone = panel.removed(split)
            parts[name] = (split, ~gone)
            if name == "holdout":
                parts["removed"] = (split, gone)
    values = []
    for name, (split, kept) in parts.items():
        for suffix, key in ((panel.task.score_name, "score"), ("loss", "nll")):
            if kept.any():
                values.append(mean_value(f"{name}_{suffix}", subject.numbers(split, key)[kept]))
    return values
