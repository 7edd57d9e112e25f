"""Blind split: are forget and unseen data distinguishable without any model? Das et al. 2024, arXiv:2406.16201.

    AUC of a ridge regression of 1[x ∈ F] on the raw inputs, each example scored by folds that it is not in

Membership attacks compare the forget set with unseen data and take the two for draws of one distribution. If the inputs
alone distinguish them, an attack may measure that shift and no memory. The control uses no model: the value is the same
for all of them. Above 0.55 (with its interval above ½) the detail carries a warning.
Inputs: pixels or features with the label; for text, counts of tokens.
Needs:    forget, holdout (labels that occur in the forget set).     Cost: a few linear regressions, once.
Limits:   linear; a shift that only a deep model sees passes.
"""

from __future__ import annotations

import numpy as np

from lethe.core.config import Count, Fraction, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split, concat
from lethe.judge.measured import auc_value
from lethe.judge.panel import Panel
from lethe.maths.membership import ridge
from lethe.pools.subject import Subject

TOKENS = 512   # bins of token counts


@config
class BlindSplit:
    """Options of the blind split."""

    folds: Count = 5          # of the cross-validation                                     [usual]
    warn: Fraction = 0.55     # AUC above which the split is called biased                  [ours] [tested in test_blind_split]
    limit: Count = 1000       # examples of each side at most; a seeded sample              [ours]
    fewest: Count = 20        # examples of a side below which nothing is reported          [ours]


def blind_scores(x: np.ndarray, member: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Out-of-fold score of each example, folds stratified.  [n, d], [n] bool -> [n]"""
    fold = np.empty(len(x), dtype=int)
    for side in (member, ~member):
        fold[side] = rng.permutation(np.arange(side.sum()) % folds)
    score = np.empty(len(x))
    for k in range(folds):
        inside = fold != k
        score[~inside] = ridge(x[inside], member[inside].astype(float), x[~inside])[0]
    return score


@audit(
    metrics={"blind_split_auc": Metric("AUC of a linear classifier on raw inputs, forget set against unseen data",
                                       better="lower", null=0.5)},
    uses={"likelihood"},
    needs={"forget", "holdout"},
    blind="It is linear and looks at inputs only; a shift that only a deep model sees passes.",
)
def measure(cfg: BlindSplit, subject: Subject, panel: Panel) -> list[Value]:
    def look() -> list[Value]:
        unseen = panel.task.holdout.subset(panel.unseen(), "unseen") if panel.unseen().any() else None
        if unseen is None or min(len(unseen), len(panel.task.forget)) < cfg.fewest:
            return []
        mine, theirs = panel.part(panel.task.forget, cfg.limit), panel.part(unseen, cfg.limit)
        member = np.arange(len(mine) + len(theirs)) < len(mine)
        score = blind_scores(raw(concat([mine, theirs], "both")), member, cfg.folds,
                             numpy_generator(panel.seed, "blind split"))
        value = auc_value("blind_split_auc", score[member], score[~member])
        if value.value > cfg.warn and value.low is not None and value.low > 0.5:
            value.detail["warning"] = (f"a linear classifier separates forget from unseen data by their inputs alone (AUC "
                                       f"{value.value:.2f}), so membership attacks may measure that difference and no "
                                       "memory. Draw forget set and holdout from the same source.")
        return [value]

    return panel.once(("blind_split", cfg), look)


def raw(split: Split) -> np.ndarray:
    """The inputs as numbers: the inputs and the label one-hot, or counts of tokens.  -> [n, d]"""
    if "ids" in split.columns:
        tokens, length = split.columns["ids"].numpy() % TOKENS, split.columns["length"].numpy()
        used = np.arange(tokens.shape[1]) < length[:, None]
        counts = np.zeros((len(split), TOKENS))
        np.add.at(counts, (np.nonzero(used)[0], tokens[used]), 1.0)
        return counts
    y = split.columns["y"].numpy()
    numbers = [split.columns[key].double().numpy().reshape(len(split), -1) for key in split.inputs]
    return np.concatenate([*numbers, y[:, None] == np.unique(y)], 1)
