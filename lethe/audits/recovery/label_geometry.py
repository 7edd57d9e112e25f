"""Label geometry: a deleted class recovered from the predictions for the other classes. MIA-NN: arXiv:2506.20893 (2025).

    g(x) = log-softmax of the logits without the removed classes;     nearest mean in g among the K classes, the removed ones
    represented by half of F:   geometry_recall = share of unseen examples of removed classes that are nearest to their own mean
    geometry_blind_recall = the same with the removed class's mean taken from the original's g on F: nothing of this model's
    answers to F is needed, and the attacker need only have kept the old means

A class whose output was cut off still leaves its shadow on the others: which neighbours it resembles, and how surely.
Retrained models have such a shadow too (an unseen 3 looks like an 8), so the excess over them counts; all values are shown.
Needs:    forget, retain, holdout and a class that was removed entirely; original for the second.     Cost: no pass.
Limits:   black-box, at the answers only; means, no shapes. `head_swap` reads more where the weights are known.
Finds:    digits CNN without class 3, eight retrained models: 0.90 for the original and for one whose class was cut off (filter,
          emptied row), retrained 0.82 ± 0.04; sign-gradient ascent 0.87. With the original's means 0.90, retrained
          0.46 ± 0.21, ascent 0.74; models taught another label for F 0.00. Tiny MLP on blobs: 0.83 against 0.61 ± 0.05.
Deviations: the published attack detects membership of a class in the forget set; this one recovers its examples.
"""

from __future__ import annotations

import numpy as np

from lethe.core.alike import of_a_class_that_leaves
from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.families.headed import HeadedTask
from lethe.core.registry import Metric, audit
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class LabelGeometry:
    """Options of the recovery from label geometry."""

    limit: Count = 4000   # retained examples at most                                 [ours]
    fewest: Count = 10    # unseen examples below which nothing is reported           [ours]


@audit(
    metrics={
        "geometry_recall": Metric("recall of removed classes, nearest mean of the answers to other classes", better="lower",
                                  aspect="recovery"),
        "geometry_blind_recall": Metric("the same with the original's means of the removed classes", better="lower",
                                        aspect="recovery"),
    },
    uses={"labels", "width"},
    needs={"forget", "retain", "holdout"},
    depth="standard",
    blind="It compares answers with class means; a class spread over several clusters is missed.",
)
def measure(cfg: LabelGeometry, subject: Subject, panel: Panel) -> list[Value]:
    task = panel.task
    removed = of_a_class_that_leaves(task.holdout, task.forget, task.retain)
    gone = np.unique(task.holdout.columns["y"].numpy()[removed])
    if removed.sum() < cfg.fewest or HeadedTask.of(task).width - len(gone) < 2:
        return []
    known, truth = panel.part(task.retain, cfg.limit), task.holdout.columns["y"].numpy()[removed]
    order = numpy_generator(panel.seed, "geometry half").permutation(len(task.forget))
    half = order[: len(order) // 2]
    unseen = others(subject, task.holdout, gone)[removed]

    def recall(metric: str, source: Subject, rows: np.ndarray) -> Value:
        means = class_means(others(subject, known, gone), known.columns["y"].numpy())
        means |= class_means(others(source, task.forget, gone)[rows], task.forget.columns["y"].numpy()[rows])
        return mean_value(metric, (nearest(unseen, means) == truth).astype(float))

    values = [recall("geometry_recall", subject, half)]
    if task.has("original"):
        values.append(recall("geometry_blind_recall", panel.original, order))
    return values


def others(subject: Subject, split: Split, gone: np.ndarray) -> np.ndarray:
    """Log-posteriors of the classes that stay, given that it is one of them.  -> [n, K − gone]"""
    z = np.delete(subject.numbers(split, "logits"), gone, 1)
    top = z.max(1, keepdims=True)
    logp: np.ndarray = z - top - np.log(np.exp(z - top).sum(1, keepdims=True))
    return logp


def class_means(x: np.ndarray, y: np.ndarray) -> dict[int, np.ndarray]:
    """[n, d], [n] -> class: [d]"""
    return {int(c): x[y == c].mean(0) for c in np.unique(y)}


def nearest(x: np.ndarray, means: dict[int, np.ndarray]) -> np.ndarray:
    """The class whose mean is nearest.  [n, d] -> [n]"""
    table = np.stack(list(means.values()))
    nearest: np.ndarray = np.array(list(means))[((x[:, None] - table) ** 2).sum(-1).argmin(1)]
    return nearest
