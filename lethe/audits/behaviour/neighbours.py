"""Neighbours: what removal does to the records that resemble the removed ones, and to the group that fares worst. Damage grows
with closeness to the forget set (2026, arXiv:2605.31317); a mean over all retained data hides it.

    N = the |F| retained examples whose features lie nearest to one of F (features of the original, else of a reference)
    neighbour_score = mean score on N;      neighbour_gap = mean score on all retained data less that on N
    group_score_worst = the lowest mean score over groups of retained data of at least `smallest` examples: classes

Retrained models lose some of it, too, because N leans on what was removed: both scores are held against theirs, one-sided.
Needs:    forget, retain; original or references.     Cost: one pass over the features of `limit` retained examples and of F.
Limits:   near by the features of one model; families without classes have no groups here.
"""

from __future__ import annotations

import math

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.near import nearest_first
from lethe.pools.subject import Subject


@config
class Neighbours:
    """Options of the neighbours audit."""

    limit: Count = 4000     # retained examples at most; a seeded sample                                 [ours]
    smallest: Count = 10    # examples below which a group has no score                                  [ours]


@audit(
    metrics={
        "neighbour_score": Metric("mean score on the retained examples nearest to the forget set", (-math.inf, math.inf),
                                  "higher", "utility"),
        "neighbour_gap": Metric("mean score on all retained examples less that on the nearest", (-math.inf, math.inf), "lower"),
        "group_score_worst": Metric("lowest mean score over groups of retained examples", (-math.inf, math.inf), "higher",
                                    "utility"),
    },
    uses={"observe", "features"},
    needs={"forget", "retain", "references?"},
    depth="standard",
    blind="It looks at neighbours by one model's features and at classes; other groups of people need a column that names them.",
)
def measure(cfg: Neighbours, subject: Subject, panel: Panel) -> list[Value]:
    known = panel.part(panel.task.retain, cfg.limit)
    near = panel.once(("neighbours", known), lambda: _nearest(panel, cfg))
    score = subject.numbers(known, "score")
    values = [mean_value("neighbour_score", score[near])]
    values.append(Value("neighbour_gap", float(score.mean() - score[near].mean()), n=len(near)))
    groups = _groups(panel, cfg)
    means = {name: float(score[rows].mean()) for name, rows in groups.items()}
    if len(means) > 1:
        worst = min(means, key=lambda name: means[name])
        values.append(Value("group_score_worst", means[worst], n=len(groups[worst]), detail={"group": worst, "groups": means}))
    return values


def _nearest(panel: Panel, cfg: Neighbours) -> np.ndarray:
    """Positions of the nearest retained examples: as many as are to be forgotten, at most a quarter of those looked at."""
    known = panel.part(panel.task.retain, cfg.limit)
    eye = panel.original if panel.task.has("original") or not panel.references else panel.references[0]
    order = nearest_first(eye.features(known), eye.features(panel.task.forget))
    return np.sort(order[: max(1, min(len(panel.task.forget), len(known) // 4))])


def _groups(panel: Panel, cfg: Neighbours) -> dict[str, np.ndarray]:
    """Class -> positions of its retained examples, of those with enough; none in a family without classes."""
    known = panel.part(panel.task.retain, cfg.limit)
    labels = known.columns.get("y")
    if labels is None or labels.dim() != 1 or labels.is_floating_point():
        return {}
    y = labels.numpy()
    groups = {str(label): np.flatnonzero(y == label) for label in np.unique(y)}
    return {name: rows for name, rows in groups.items() if len(rows) >= cfg.smallest}
