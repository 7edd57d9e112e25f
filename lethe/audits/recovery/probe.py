"""Probe: can a fresh linear head read the forgotten class from frozen features? Alain & Bengio 2016, arXiv:1610.01644.

    probe     ridge onto one-hot labels (penalty by generalised cross-validation) on k examples of every class, forgotten
              ones included; recall of the forgotten classes on unseen data, mean over draws; k = 5, 50, all
    prototype nearest class mean of the same k examples (Ha et al. 2025, arXiv:2506.01318)
    selectivity = held-out accuracy − training accuracy on permuted labels (control task: Hewitt & Liang 2019)
    membership  AUC of a cross-fitted ridge that separates F from unseen examples with labels of F

What counts is the excess over retrained models, `evidence.gap`: their features separate an unseen class too, so a high
recall alone proves nothing.
Needs:    forget, holdout; retain and a class that was removed entirely, for all but `membership`.
Cost:     features of three splits; a singular value decomposition for each fit.
Verdict:  `prototype_recall_5` is held against the yardstick; the rest is shown.
Limits:   recalls of removed classes have a low ceiling of excess; `head_swap` is sharper where the original is known.
Finds:    digits CNN without class 3, eight retrained models, 77 unseen examples: prototypes of 5 examples 0.90 for the
          original against 0.73 ± 0.02 (p 3e-4); linear probe of 5, 50, all 0.87, 0.90, 0.91 against 0.69 ± 0.08,
          0.84 ± 0.03, 0.85 ± 0.03 (p 0.07 to 0.13): more labels teach the retrained features too. Membership 0.56 against
          0.54 ± 0.02. Tiny MLP on blobs: 1.00 against 0.90 ± 0.09, no power.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lethe.core.alike import of_a_class_that_leaves
from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.seeds import numpy_generator
from lethe.judge.measured import auc_value, mean_value
from lethe.judge.panel import Panel
from lethe.maths.ridge import cross_fitted, one_hot, ridge_gcv
from lethe.pools.subject import Subject


@config
class Probe:
    """Options of the linear probe."""

    shots: tuple[Count, ...] = (5, 50)   # examples of every class; "all" is added        [usual: 5, 50]
    draws: Count = 5                     # random choices of the shots, averaged          [ours]
    limit: Count = 4000                  # retained examples at most                      [ours]
    folds: Count = 5                     # of the membership probe                        [usual]
    fewest: Count = 10                   # unseen examples below which nothing is reported [ours]


@audit(
    metrics={
        "prototype_recall_5": Metric("recall of removed classes on unseen data, nearest mean of 5 examples of each class",
                                     moves=True, aspect="representation"),
        "probe_recall_*": Metric("recall of removed classes on unseen data, linear probe on * examples of each class",
                                 better="lower", aspect="representation"),
        "prototype_recall_*": Metric("recall of removed classes on unseen data, nearest mean of * examples of each class",
                                     better="lower", aspect="representation"),
        "probe_selectivity": Metric("held-out accuracy of the probe minus its training accuracy on permuted labels",
                                    (-1.0, 1.0), "lower", aspect="representation"),
        "probe_membership_auc": Metric("AUC of a linear probe that separates forget from unseen examples", better="lower",
                                       null=0.5, aspect="representation"),
    },
    uses={"features", "observe", "weights"},
    needs={"forget", "holdout"},
    depth="standard",
    blind="Linear readers of one layer; a deeper reader, or another layer, may find more.",
)
def measure(cfg: Probe, subject: Subject, panel: Panel) -> list[Value]:
    task, like = panel.task, panel.unseen()
    values = []
    if like.sum() >= cfg.fewest:
        inside, outside = subject.features(task.forget), subject.features(task.holdout)[like]
        member = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
        scores = cross_fitted(np.concatenate([inside, outside]), member, cfg.folds, numpy_generator(panel.seed, "probe folds"))
        values.append(auc_value("probe_membership_auc", scores[member == 1], scores[member == 0]))
    if not task.has("retain"):
        return values
    removed = of_a_class_that_leaves(task.holdout, task.forget, task.retain)
    return values + (_classes(cfg, subject, panel, removed) if removed.sum() >= cfg.fewest else [])


def _classes(cfg: Probe, subject: Subject, panel: Panel, removed: np.ndarray) -> list[Value]:
    task, known = panel.task, panel.part(panel.task.retain, cfg.limit)
    x = np.concatenate([subject.features(task.forget), subject.features(known)])
    y = np.concatenate([task.forget.columns["y"].numpy(), known.columns["y"].numpy()])
    unseen, truth, classes = subject.features(task.holdout), task.holdout.columns["y"].numpy(), np.unique(y)

    def recall(reader: Callable[..., np.ndarray], rows: np.ndarray) -> np.ndarray:
        predicted = classes[reader(x[rows], y[rows], unseen[removed], classes).argmax(1)]
        correct: np.ndarray = (predicted == truth[removed]).astype(float)
        return correct

    values = []
    for k in cfg.shots:
        rows = [few_of_each(y, k, numpy_generator(panel.seed, "shots", k, draw)) for draw in range(cfg.draws)]
        for name, reader in READERS:
            values.append(mean_value(f"{name}_recall_{k}", np.mean([recall(reader, r) for r in rows], 0)))
    whole = np.arange(len(y))
    values += [mean_value(f"{name}_recall_all", recall(reader, whole)) for name, reader in READERS]
    mixed = numpy_generator(panel.seed, "control task").permutation(y)
    control = (classes[linear(x, mixed, x, classes).argmax(1)] == mixed).mean()
    seen = np.isin(truth, classes)
    accuracy = (classes[linear(x, y, unseen[seen], classes).argmax(1)] == truth[seen]).mean()
    return [*values, Value("probe_selectivity", float(accuracy - control), n=int(seen.sum()))]


def linear(x: np.ndarray, y: np.ndarray, at: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Scores of a ridge onto one-hot labels.  [n, d], [n], [m, d], [K] -> [m, K]"""
    w, b, _ = ridge_gcv(x, one_hot(y, classes))
    margins: np.ndarray = at @ w + b
    return margins


def prototypes(x: np.ndarray, y: np.ndarray, at: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """2⟨x, m_c⟩ − ‖m_c‖², largest for the nearest class mean m_c.  [n, d], [n], [m, d], [K] -> [m, K]"""
    means = np.stack([x[y == c].mean(0) for c in classes])
    margins: np.ndarray = 2 * at @ means.T - (means**2).sum(1)
    return margins


READERS = (("probe", linear), ("prototype", prototypes))


def few_of_each(y: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of at most k random examples of every label.  [n] -> [m]"""
    return np.concatenate([rng.permutation(np.flatnonzero(y == c))[:k] for c in np.unique(y)])
