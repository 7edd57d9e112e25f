"""Quantile regression: a threshold for each example without shadows. Bertran et al. 2023, arXiv:2307.03694.

    gaussian  Λ(x) = (φ_x − μ(v_x)) / σ(v_x)            μ, log σ² ridge regressions on unseen examples
    pinball   Λ(x) = φ_x − q_{1−α}(v_x),   q minimises Σ max((1−α) r, −α r),  r = φ − q(v): boosted trees

φ_x is the membership signal of the audited model, v_x a view of x that does not come from it: the penultimate activations
of one retrained model, the label, and the mean signal of the retrained models. The regressor learns from unseen data how
sure the model is of such an example anyway; what it is surer of, it has seen. One regression per model, no shadow models.
Half of the unseen examples (and all holdout of other labels) fit it, the other half are the non-members.
Needs:    forget, holdout, references. Classifiers.    Cost: one regression per model.
Finds:    digits MLP with 5 % wrong labels, 60 to forget, 398 to fit: untouched 0.58, random labels 0.25, six retrained
          models 0.45–0.55; LiRA with the same references 0.64.
Limits:   needs hundreds of unseen examples; what two similar examples do not share it cannot predict. It asks what LiRA
          asks, so it is shown beside LiRA's verdict and not judged again.
Deviations: the paper trains a network for the regression on the raw inputs.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from lethe.core.config import Count, Fraction, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.judge.measured import attack_values
from lethe.judge.panel import Panel
from lethe.maths.membership import ridge
from lethe.pools.subject import Subject

LOG_CHI = -1.2703628454614782   # mean of log χ² with one degree of freedom: ψ(½) + log 2


@config
class Quantile:
    """Options of the quantile attack."""

    head: Literal["gaussian", "pinball"] = "gaussian"   # two ridge regressions | boosted trees  [Bertran et al.: both heads]
    alpha: Fraction = 0.05    # pinball: share of unseen examples above the quantile             [ours] [only with head=pinball]
    resamples: Count = 2000   # bootstrap resamples of TPR                                       [usual]
    fewest: Count = 30        # unseen examples to fit or to attack below which nothing is reported   [ours]


@audit(
    metrics={
        "quantile_auc": Metric("AUC of the signal beside what a regression on unseen data expects", better="lower", null=0.5),
        "quantile_worst": Metric("median Λ over the 5 % of the forget set where it is highest", (-math.inf, math.inf), "lower"),
        "quantile_tpr_at_*": Metric("TPR of the attack at 1, 5 or 10 % FPR", better="lower"),
    },
    uses={"features", "labels"},
    needs={"forget", "holdout", "references"},
    depth="standard",
    blind="An example whose difficulty the regression cannot predict from others hides behind its own residual.",
)
def measure(cfg: Quantile, subject: Subject, panel: Panel) -> list[Value]:
    task, unseen = panel.task, panel.unseen()
    order = numpy_generator(panel.seed, "quantile halves").permutation(np.flatnonzero(unseen))
    tested = np.zeros(len(task.holdout), dtype=bool)
    tested[order[: len(order) // 2]] = True
    if min(tested.sum(), (~tested).sum()) < cfg.fewest:
        return []
    view, other = _view(panel, task.forget), _view(panel, task.holdout)
    signal = subject.numbers(task.holdout, "signal")
    mine = np.concatenate([subject.numbers(task.forget, "signal"), signal[tested]])
    score = excess(mine, np.concatenate([view, other[tested]]), signal[~tested], other[~tested], cfg.head, cfg.alpha)
    return attack_values("quantile", score[: len(task.forget)], score[len(task.forget) :], cfg.resamples,
                         fitted=int((~tested).sum()))


def excess(
    signal: np.ndarray, view: np.ndarray, unseen: np.ndarray, unseen_view: np.ndarray, head: str = "gaussian", alpha: float = 0.05
) -> np.ndarray:
    """Λ of each example, from a regression of the signal on the view over unseen examples.  [n], [n, d], [m], [m, d] -> [n]"""
    if head == "pinball":
        from sklearn.ensemble import GradientBoostingRegressor

        trees = GradientBoostingRegressor(loss="quantile", alpha=1 - alpha, subsample=0.5, max_features="sqrt", random_state=0)
        above: np.ndarray = signal - trees.fit(unseen_view, unseen).predict(view)
        return above
    mean, left_out = ridge(unseen_view, unseen, view)
    squares = np.log(np.maximum((unseen - left_out) ** 2, 1e-12))
    log_variance, _ = ridge(unseen_view, squares, view)
    scores: np.ndarray = (signal - mean) / np.exp((log_variance - LOG_CHI) / 2)
    return scores


def _view(panel: Panel, split: Split) -> np.ndarray:
    """What models that never saw the forget set make of each example.  -> [n, d]"""
    first = panel.references[0].seen(split)
    labels = np.eye(first["logits"].shape[1])[split.columns["y"].numpy()]
    difficulty = np.mean([r.numbers(split, "signal") for r in panel.references], 0)
    return np.concatenate([first["features"].double().numpy(), labels, difficulty[:, None]], 1)
