"""RMIA: per-example attack from few shadows, relative to a population. Zarifzadeh, Liu & Shokri 2024, arXiv:2312.03262.

    score(x) = share of z ∈ Z with r_x / r_z ≥ γ,     r_x = p(x|θ) / p(x),  r_z = p(z|θ) / p(z)
    online   p(x) = ½ (mean of p(x|θ') over shadows trained on x + mean over those that were not)
    offline  p(x) = ½ ((1 + a) · mean of p(x|θ') over models that never saw x + (1 − a));     p(z) the same, nobody saw z

p(x|θ) is the probability of the true class (for text: of the answer, per token), Z holdout examples that are no candidates.
Exact and fast: score = #{z : log r_z ≤ log r_x − log γ} / |Z| by one sort of r_z, O((n + |Z|) log |Z|), instead of an
n × |Z| matrix (`reference_rmia_scores`; the scores are equal). All in log space: p → 0 gives no infinite ratio.
Online: shadows that were trained on half of the candidates. Offline: the retrained references, which never saw F or the
holdout; `a` is the one with which one shadow is attacked best by the others, over a grid.
Needs:    forget, retain, holdout, recipe (through shadows); references for the offline attack.
Cost:     no training beyond the shadows that other audits use too.
Finds:    digits MLP, each of 32 shadows attacked by K others, 120 candidates, |Z| = 737, mean AUC with 5 | 15 % wrong labels:
          online K = 2: 0.708 | 0.793, 4: 0.720 | 0.810, 31: 0.730 | 0.828; LiRA with 4: 0.691 | 0.787, with 31: 0.716 |
          0.829. Offline K = 4: best a = 0.6 at 5 % (0.686), a = 1 at 15 % (0.723): a has to be tuned.
Limits:   scores are shares of Z, so at most |Z| + 1 values: few examples in Z make ties. It sees what LiRA sees, with fewer
          models; so it is shown beside LiRA's verdict and not judged again.
Deviations: shadows that were trained on x and that were not are averaged apart, each over those that there are: equal to
          the mean over all where every candidate is in exactly half of the shadows. γ = 2 in the paper, 1 in its code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lethe.core.config import Count, Fraction, Positive, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.measured import attack_values
from lethe.judge.panel import Panel
from lethe.maths.membership import log_mean, log_online
from lethe.maths.statistics import auc
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Subject

GRID = tuple(i / 10 for i in range(11))


@config
class RMIA:
    """Options of RMIA."""

    models: Count = 8         # shadows at most; the plan's limit holds too              [ours; the paper has 1 to 254]
    gamma: Positive = 1.0     # how much likelier x must have become than z              [the authors' code]
    a: Fraction | None = None   # offline: slope from unseen to p(x); None: tuned    [the authors' code]
    resamples: Count = 2000   # bootstrap resamples of TPR                               [usual]
    fewest: Count = 10        # unseen examples or z below which nothing is reported     [ours: AUC ± 0.2 at 10]


def rmia_scores(ratio_x: np.ndarray, ratio_z: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """Share of z with r_x/r_z ≥ γ, from log ratios; NaN stays NaN.  [n], [m] -> [n]"""
    share = np.searchsorted(np.sort(ratio_z), ratio_x - np.log(gamma), "right") / len(ratio_z)
    return np.where(np.isnan(ratio_x), np.nan, share)   # a NaN would sort behind every z: share 1


def reference_rmia_scores(ratio_x: np.ndarray, ratio_z: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """`rmia_scores` from the matrix of all pairs.  [n], [m] -> [n]"""
    shares: np.ndarray = (ratio_x[:, None] - np.log(gamma) >= ratio_z[None, :]).mean(1)
    return shares


def log_offline(log_out: np.ndarray, a: float) -> np.ndarray:
    """log ½((1 + a)·p_out + 1 − a) from log p_out.  [n] -> [n]"""
    scaled = np.log1p(a) + log_out
    with np.errstate(invalid="ignore"):   # NaN where no shadow was out
        log_p: np.ndarray = (scaled if a == 1 else np.logaddexp(scaled, np.log1p(-a))) - np.log(2)
        return log_p


def tune_offline_a(
    log_x: np.ndarray, inside: np.ndarray, log_z: np.ndarray, gamma: float = 1.0, grid: Sequence[float] = GRID, targets: int = 1
) -> float:
    """The a with which the first `targets` shadows are attacked best by the others: highest mean AUC, the smallest of ties.

    log_x [K, n] log p of candidates under K ≥ 2 shadows, inside [K, n] who was trained on them, log_z [K, m] of the
    population. Means over shadows are taken once per target, not once per a: 50× and more over `reference_tune_offline_a`.
    """
    gains = np.zeros(len(grid))
    for k in range(targets):
        rest = np.arange(len(log_x)) != k
        out_x, out_z = log_mean(log_x[rest], ~inside[rest]), log_mean(log_z[rest])
        known, member = ~np.isnan(out_x), inside[k]
        for i, a in enumerate(grid):
            x, z = log_x[k] - log_offline(out_x, a), log_z[k] - log_offline(out_z, a)
            score = rmia_scores(x, z, gamma)
            gains[i] += auc(score[known & member], score[known & ~member])
    return float(grid[int(np.argmax(gains.round(12)))])


def reference_tune_offline_a(
    log_x: np.ndarray, inside: np.ndarray, log_z: np.ndarray, gamma: float = 1.0, grid: Sequence[float] = GRID, targets: int = 1
) -> float:
    """`tune_offline_a` with probabilities, matrices of all pairs and everything computed anew for each a."""
    best, found = -1.0, 0.0
    for a in grid:
        gain = 0.0
        for k in range(targets):
            rest = [i for i in range(len(log_x)) if i != k]
            seen = inside[rest]
            out = np.array([np.exp(log_x[rest, j])[~seen[:, j]].mean() if (~seen[:, j]).any() else np.nan
                            for j in range(log_x.shape[1])])
            x = np.exp(log_x[k]) / (((1 + a) * out + 1 - a) / 2)
            z = np.exp(log_z[k]) / (((1 + a) * np.exp(log_z[rest]).mean(0) + 1 - a) / 2)
            score = (x[:, None] / z[None, :] >= gamma).mean(1)
            gain += auc(score[inside[k] & ~np.isnan(out)], score[~inside[k] & ~np.isnan(out)])
        if gain > best + 1e-12:
            best, found = gain, float(a)
    return found


@audit(
    metrics={
        "rmia_auc": Metric("AUC of the relative likelihood ratio with shadows on both sides", better="lower", null=0.5),
        "rmia_worst": Metric("median score over the 5 % of the forget set where it is highest", better="lower"),
        "rmia_tpr_at_*": Metric("TPR of the attack at 1, 5 or 10 % FPR", better="lower"),
        "rmia_offline_auc": Metric("AUC of the relative likelihood ratio with models that never saw the data",
                                   better="lower", null=0.5, asks="retrained models"),
        "rmia_offline_worst": Metric("median offline score over the 5 % of the forget set where it is highest",
                                     better="lower"),
        "rmia_offline_tpr_at_*": Metric("TPR of the offline attack at 1, 5 or 10 % FPR", better="lower"),
    },
    uses={"likelihood"},
    needs={"forget", "holdout", "shadows", "references?"},
    depth="standard",
    blind="It compares with models that have unlearned nothing; traces that the probability of the label does not show are "
          "invisible to it.",
)
def measure(cfg: RMIA, subject: Subject, panel: Panel) -> list[Value]:
    shadows = panel.shadows
    assert shadows is not None
    count = min(cfg.models, shadows.limit)
    inside, members, others = shadows.sides(count)
    if min(members.sum(), others.sum(), len(shadows.population)) < cfg.fewest:
        return []
    trained = shadows.trained(count)
    log_x, log_z = log_probability([subject], shadows)
    pool_x, pool_z = log_probability(trained, shadows)

    def found(name: str, at_x: np.ndarray, at_z: np.ndarray, inner: np.ndarray, outer: np.ndarray, **detail: float
              ) -> list[Value]:
        score = rmia_scores(log_x[0] - at_x, log_z[0] - at_z, cfg.gamma)
        return attack_values(name, score[inner], score[outer], cfg.resamples, population=log_z.shape[1], **detail)

    values = found("rmia", log_online(pool_x, inside), log_mean(pool_z), members, others, shadows=count)
    if panel.references:
        a = cfg.a if cfg.a is not None else panel.once(("rmia", cfg), lambda: tune_offline_a(
            pool_x, inside, pool_z, cfg.gamma, targets=min(4, count)))
        out_x, out_z = log_probability(panel.references, shadows)
        values += found("rmia_offline", log_offline(log_mean(out_x), a), log_offline(log_mean(out_z), a),
                        shadows.members, ~shadows.members, references=len(out_x), a=a)
    return values


def log_probability(models: Sequence[Subject], shadows: Shadows) -> tuple[np.ndarray, np.ndarray]:
    """log p of the candidates and of the population under each model.  -> [K, c], [K, m]"""
    x, z = (np.stack([-m.numbers(split, "nll") for m in models]) for split in (shadows.candidates, shadows.population))
    return x, z
