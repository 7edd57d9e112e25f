"""Position: do forgotten records still lie among their kind, as only records do that a model was trained on? After RULER, Cosma &
Finke (2026), arXiv:2605.27569.

    s(x) = 1/k · Σ_{r ∈ N_k(x)} cos(h(x) − h̄, h(r) − h̄)     position_auc = P(s(x) > s(u)),  x ∈ F, u unseen (ties count half)
    position_excess = mean_{x∈F} d(x) / mean_u d(u),    d(x) = mean_j |s(x) − s_j(x)|

h features before the head, h̄ their mean over R, N_k(x) the k retained examples of x's own label that lie nearest to x, F forget
set, R retain set, u unseen examples that are like F (`lethe.core.alike`), s_j the same in retrained model j. Training pulls what
it fits towards others of its label; what was never trained on lies where it falls. The first needs no retrained model, is 0.5 for
one, and also tells before anything is unlearned whether there is something to find (`lethe audit` of the original alone).
Needs:    forget, retain, holdout and class labels; references for the second.     Cost: features of three splits.
Limits:   labels that are not retained have no neighbours: where whole classes leave, nothing is measured. A model that fits F no
          better than unseen data has nothing to find. Without labels the nearest retained examples of any kind tell nothing (tiny
          Llama 0.47 against 0.38–0.62, regressor 0.60 against 0.58–0.65 of retrained models), so labels are asked for.
Finds:    600 digits, 20 % of the labels wrong, 100 forgotten, MLP of three hidden layers, three draws, ten retrained models each:
          untouched 0.63, 0.60, 0.59 and 1.59, 1.92, 1.63; retrained 0.54, 0.48, 0.49 and 0.94 ± 0.03, 0.99 ± 0.04, 0.99 ± 0.05 on
          the mean; 3 alarms of 100 fresh models held against 8. Other answers taught to the head alone change nothing here.
          With one hidden layer the features hardly remember, and the first sees nothing.
Deviations: (derived) from the paper's abstract alone: its M4 finds what is left from the model's own similarities, its M2 asks
          whether records hold the position that they have after retraining. These are plain forms of both, not the paper's.
"""

from __future__ import annotations

import math

import numpy as np

from lethe.core.alike import class_labels
from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.split import Split
from lethe.judge.measured import auc_value, excess_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class Position:
    """Options of the position audit."""

    nearest: Count = 10      # k, retained examples of the same label                     [ours: 5 and 20 tell as much]
    retained: Count = 4000   # retained examples at most, a seeded sample                 [ours]
    fewest: Count = 10       # examples on either side below which nothing is reported    [ours]


def position(x: np.ndarray, y: np.ndarray, known: np.ndarray, labels: np.ndarray, nearest: int) -> np.ndarray:
    """s of each example; nan where no retained one has its label.  [n, d], [n], [m, d], [m] -> [n]"""
    centre = known.mean(0)
    mine, theirs = _directions(x - centre), _directions(known - centre)
    found = np.full(len(x), math.nan)
    for label in np.unique(y):
        rows, kin = y == label, theirs[labels == label]
        if k := min(nearest, len(kin)):
            found[rows] = np.partition(mine[rows] @ kin.T, -k, 1)[:, -k:].mean(1)
    return found


def _directions(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; zeros stay.  [n, d] -> [n, d]"""
    unit: np.ndarray = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return unit


@audit(
    metrics={
        "position_auc": Metric("probability that a forgotten example lies nearer to the retained ones of its label than unseen",
                               null=0.5, aspect="representation"),
        "position_excess": Metric("mean difference of positions from retrained models', forget set over unseen data",
                                  (0.0, math.inf), distance=True, aspect="representation", asks="retrained models"),
    },
    uses={"features", "labels"},
    needs={"forget", "retain", "holdout", "references?"},
    depth="standard",
    blind="It sees where forgotten records lie before the head among retained ones of their label; what shallow features, "
          "answers, earlier layers keep, and classes that leave as a whole, are not seen.",
)
def measure(cfg: Position, subject: Subject, panel: Panel) -> list[Value]:
    task, like = panel.task, panel.unseen()
    forgotten, unseen = placed(cfg, subject, panel, task.forget), placed(cfg, subject, panel, task.holdout)
    mine, others = np.isfinite(forgotten), np.isfinite(unseen) & like
    if min(mine.sum(), others.sum()) < cfg.fewest:
        return []
    values = [auc_value("position_auc", forgotten[mine], unseen[others])]
    if panel.references:
        apart = [np.mean([np.abs(here - placed(cfg, r, panel, split)) for r in panel.references], 0)[rows]
                 for split, here, rows in ((task.forget, forgotten, mine), (task.holdout, unseen, others))]
        values.append(excess_value("position_excess", *apart))
    return values


def placed(cfg: Position, subject: Subject, panel: Panel, split: Split) -> np.ndarray:
    """s of a split's examples in one model, computed once; nan where labels are none, or not retained.  [n]"""
    known = panel.part(panel.task.retain, cfg.retained)
    y, labels = class_labels(split), class_labels(known)
    if y is None or labels is None:
        return np.full(len(split), math.nan)
    return panel.once(("position", cfg, subject, split),
                      lambda: position(subject.features(split), y.numpy(), subject.features(known), labels.numpy(), cfg.nearest))
