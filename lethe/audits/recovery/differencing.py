"""Differencing: what both versions together reveal about who was deleted. Chen et al. 2021, arXiv:2005.02205.

    v(x) = (φ_o, p_o sorted; φ_u, p_u in the order of p_o; ‖p_o − p_u‖),  p_o, p_u the posteriors of the original and of this
           model, φ_o, φ_u their membership signals; families without posteriors have the signals alone
    difference_auc      AUC of a cross-fitted ridge on v, forget set against unseen examples with labels of F
    difference_gap_auc  AUC of φ_o(x) − φ_u(x) alone: no fit at all
    difference_base_auc, difference_alone_auc   the same ridge on the original's part of v, on this model's part
    difference_share    share of targets whose attack confidence in the truth rises over the attack on the original alone

This is about publishing two versions, not about forgetting: an exactly retrained model leaks as much, so nothing here is
judged. Who has seen the original, and sees the new model, learns what the difference reveals; publish one, or add noise.
Needs:    forget, holdout, original.     Cost: none beyond the passes that are there; five small fits.
Limits:   the ridge is fitted on members that it is told; a shadow attack needs none and finds no more.
Finds:    MLP on digits that memorised 5 % wrong labels, 60 random examples deleted, 8 retrained models: 0.65 ± 0.03 with both,
          0.63 ± 0.03 by the drop alone, 0.52 with the original alone, 0.46 ± 0.02 with the retrained model alone: exact
          deletion is seen only by who has both.
Deviations: the attack is cross-fitted on the audited pair, not trained on shadow pairs; p_o − p_u is left to
          the linear fit; the target's label is taken as known.
"""

from __future__ import annotations

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.judge.measured import auc_value, mean_value
from lethe.judge.panel import Panel
from lethe.maths.ridge import cross_fitted
from lethe.pools.subject import Subject


@config
class Differencing:
    """Options of the difference attack."""

    folds: Count = 5     # of the cross-fitted attack                                   [usual]
    largest: Count = 10  # posteriors of the original that are kept, largest first      [Chen et al. 2021: all of 10]
    fewest: Count = 10   # unseen examples below which nothing is reported              [ours]


@audit(
    metrics={
        "difference_auc": Metric("AUC of an attack on both models' posteriors, forget set against unseen data", better="lower",
                                 null=0.5),
        "difference_gap_auc": Metric("AUC of the drop of the membership signal, forget set against unseen data",
                                     better="lower", null=0.5),
        "difference_base_auc": Metric("AUC of the same attack on the original's posteriors only", better="lower", null=0.5),
        "difference_alone_auc": Metric("AUC of the same attack on this model's posteriors only", better="lower", null=0.5),
        "difference_share": Metric("share of targets that the second model exposes further", better="lower", null=0.5),
    },
    uses={"observe"},
    needs={"forget", "holdout", "original"},
    blind="It concerns those who see both versions, not a model that is published alone.",
)
def measure(cfg: Differencing, subject: Subject, panel: Panel) -> list[Value]:
    task, unseen = panel.task, panel.unseen()
    if unseen.sum() < cfg.fewest:
        return []
    rows = np.concatenate([np.ones(len(task.forget), dtype=bool), unseen])
    member = np.concatenate([np.ones(len(task.forget)), np.zeros(len(task.holdout))])[rows]

    def of(model: Subject, column: str) -> np.ndarray:
        def outputs(split: Split) -> np.ndarray:
            return model.numbers(split, column).reshape(len(split), -1)

        answers: np.ndarray = np.concatenate([outputs(task.forget), outputs(task.holdout)])[rows]
        return answers

    before, after = phi_o, phi_u = of(panel.original, "signal"), of(subject, "signal")
    distance = np.abs(phi_o - phi_u)
    if "logits" in subject.seen(task.forget):
        p_o, p_u = softmax(of(panel.original, "logits")), softmax(of(subject, "logits"))
        distance = np.linalg.norm(p_o - p_u, axis=1, keepdims=True)
        p_o, p_u = ordered(p_o, p_u, cfg.largest)
        before, after = np.hstack([phi_o, p_o]), np.hstack([phi_u, p_u])

    def attacked(x: np.ndarray) -> np.ndarray:
        return cross_fitted(x, member, cfg.folds, numpy_generator(panel.seed, "difference folds"))

    both, base, alone = attacked(np.hstack([before, after, distance])), attacked(before), attacked(after)
    drop = (phi_o - phi_u)[:, 0]
    inside = member == 1
    values = [auc_value(f"difference_{name}auc", x[inside], x[~inside])
              for name, x in (("", both), ("gap_", drop), ("base_", base), ("alone_", alone))]
    rise = np.where(inside, both - base, base - both)
    return [*values, mean_value("difference_share", (rise > 0).astype(float) + 0.5 * (rise == 0))]


def ordered(before: np.ndarray, after: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Both in the order of `before`, its largest first, at most `largest` columns.  [n, K], [n, K] -> two of [n, k]"""
    order = np.argsort(-before, 1, kind="stable")[:, :largest]
    return np.take_along_axis(before, order, 1), np.take_along_axis(after, order, 1)


def softmax(z: np.ndarray) -> np.ndarray:
    """Posteriors.  [n, K] -> [n, K]"""
    p = np.exp(z - z.max(1, keepdims=True))
    shares: np.ndarray = p / p.sum(1, keepdims=True)
    return shares
