"""KLoM: divergence of margins between unlearned and retrained models. Georgiev et al. 2024, arXiv:2410.23232.

    KLoM(x) = KL(P_x ‖ Q_x),  P_x margins of k retrained models at x, Q_x margins of k models unlearned with other seeds
    margin φ_x = z_y − log Σ_{j≠y} e^{z_j}

An ensemble is compared with an ensemble, so KLoM needs k unlearned models: runs with other seeds, or at depth deep models made
again from originals trained anew. One model has no distribution; for it the audit reports the distance of its margin from the
retrained models' in their own spread,
    z(x) = |φ_x − m_x| / s_x,    m_x, s_x location and scale of the references' t-predictive (`student_predictive`)
(z²/2 is the Gaussian KLoM of a Q_x centred at φ_x that is as wide as P_x).
Reported per split: the median of z, always; median and 95th percentile of KLoM with k models on each side. Held against the
yardstick are KLoM's median on the forget set and that of z over the one on unseen rows, for a model of another recipe
is far everywhere; the rest is shown.
Estimators of KLoM: Gaussian, ½[log(s_Q²/s_P²) + (s_P² + (m_P − m_Q)²)/s_Q² − 1]; `bins` is the 20-bin histogram of the
published benchmark, with its edges; `knn` (Pérez-Cruz 2008), mean of log(ν_i/ρ_i) + log(l/(k − 1)) with ν_i, ρ_i the distances
of the i-th of P to its 3rd neighbour in Q and in the rest of P, assumes no shape and is reported from 64 models on.
All are biased upwards for small k, so k is fixed, and the yardstick (the null) are retrained models against other retrained
models, k on each side: a value means something only beside it. The detail has `null`, that value for references alone where
there are 2k of them, `reverse`, the median of KL(Q ‖ P), and `p`: a permutation test, labels of the models drawn again.
Two normal samples of one law, 2000 examples, k = 16, 32, 64, 100, 200, 512: Gaussian 0.144, 0.066, 0.032, 0.020,
0.010, 0.004; bins 3.82, 1.64, 0.61, 0.34, 0.15, 0.05; neighbours −0.001 and −0.002 at k = 64 and 100.
A true KL of 0.125 reads 0.56 with bins, 0.147 with the Gaussian form and 0.109 with neighbours at k = 100.
Needs:    forget, references (2k for KLoM); siblings of the subject, or its procedure and shadows at depth deep, for KLoM.
Cost:     at depth deep k − 1 trainings for all methods and k − 1 runs of each.
Limits:   the null's splits share models, so they vary less than independent ones would. p is at least 1/70 for k = 4.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.judge.measured import FEWEST
from lethe.judge.panel import Panel
from lethe.maths.statistics import student_predictive
from lethe.pools.pool import Wanted
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Subject

SHAPELESS = 64   # models a side from which the nearest-neighbour form is reported


@config
class KLoM:
    """Options of KLoM."""

    models: Count = 4      # models on each side; values for other numbers are not comparable   [ours: 8 references]
    limit: Count = 4000    # examples per split at most; a seeded sample                        [ours]
    floor: float = 1e-3    # smallest standard deviation of a margin                            [ours]
    permutations: Count = 199   # of the permutation test; all of them where there are fewer    [ours] [changes the detail]


def gaussian_kl(p: np.ndarray, q: np.ndarray, floor: float = 1e-3) -> np.ndarray:
    """KL(N_P ‖ N_Q) per column, moments of the rows.  [k, n], [l, n] -> [n]"""
    var_p, var_q = (np.maximum(x.var(0, ddof=1), floor**2) for x in (p, q))
    divergence: np.ndarray = 0.5 * (np.log(var_q / var_p) + (var_p + (p.mean(0) - q.mean(0)) ** 2) / var_q - 1)
    return divergence


def binned_kl(p: np.ndarray, q: np.ndarray, bins: int = 20, clip: float = 100.0, floor: float = 1e-5) -> np.ndarray:
    """KL(P ‖ Q) of histograms per column.  [k, n], [l, n] -> [n]

    Margins clipped to ±clip, equal bins over the pooled range, Q raised to `floor` where P has mass, both normalised.
    As in the published code the largest pooled value falls behind the last edge and is dropped.
    """
    p, q = np.clip(p, -clip, clip), np.clip(q, -clip, clip)
    low, high = np.minimum(p.min(0), q.min(0)), np.maximum(p.max(0), q.max(0))
    width = np.where(high > low, high - low, 1.0) / bins

    def counts(x: np.ndarray) -> np.ndarray:
        place = np.floor((x - low) / width).astype(int)                       # [k, n]; the maximum lands in `bins`
        table = np.zeros((x.shape[1], bins + 1))
        np.add.at(table, (np.arange(x.shape[1]), np.minimum(place, bins)), 1.0)
        inside = table[:, :bins]
        shares: np.ndarray = inside / np.maximum(inside.sum(1, keepdims=True), 1)
        return shares

    a, b = counts(p), counts(q)
    b = np.where(a > 0, np.maximum(b, floor), b)
    b = b / b.sum(1, keepdims=True)
    divergence: np.ndarray = np.where(a > 0, a * np.log(np.where(a > 0, a, 1) / np.where(a > 0, b, 1)), 0.0).sum(1)
    return divergence


def knn_kl(p: np.ndarray, q: np.ndarray, neighbour: int = 3) -> np.ndarray:
    """KL(P ‖ Q) per column from distances to the k-th neighbours.  [k, n], [l, n] -> [n]"""
    found = []
    for x, y in zip(p.T, q.T, strict=True):
        own = np.partition(np.abs(x[:, None] - x), neighbour, 1)[:, neighbour]   # its nearest is itself
        other = np.partition(np.abs(x[:, None] - y), neighbour - 1, 1)[:, neighbour - 1]
        found.append(float(np.mean(np.log(np.maximum(other, 1e-12) / np.maximum(own, 1e-12)))))
    return np.array(found) + math.log(len(q) / (len(p) - 1))


def permutation_p(p: np.ndarray, q: np.ndarray, rng: np.random.Generator, count: int = 199, floor: float = 1e-3) -> float:
    """P-value of the median Gaussian KLoM when it makes no difference which model is on which side.  [k, n], [l, n]

    Over all ways to choose the sides where these are at most `count`, else over the given one and `count` drawn ones.
    """
    both = np.concatenate([p, q])
    both = both - both.mean(0)
    given = np.arange(len(both)) < len(p)
    if math.comb(len(both), len(p)) <= count:
        drawn = np.array([np.isin(np.arange(len(both)), some) for some in combinations(range(len(both)), len(p))])[1:]
    else:
        drawn = rng.permuted(np.tile(given, (count, 1)), axis=1)
    sides = np.concatenate([given[None], drawn]).astype(float)   # of `combinations` the first are the given sides

    def moments(side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = side.sum(1, keepdims=True)
        mean = side @ both / size
        return mean, np.maximum((side @ both**2 - size * mean**2) / (size - 1), floor**2)

    (mean_p, var_p), (mean_q, var_q) = moments(sides), moments(1 - sides)
    kl = 0.5 * (np.log(var_q / var_p) + (var_p + (mean_p - mean_q) ** 2) / var_q - 1)
    observed, *others = np.median(kl, 1)
    return (1 + int((np.array(others) >= observed - 1e-12).sum())) / len(sides)


@audit(
    metrics={
        "margin_shift_excess": Metric("median |margin − retrained mean| / predictive scale on the forget set, over that on "
                                      "unseen data", (0.0, math.inf), distance=True),
        "margin_shift_*": Metric("median |margin − retrained mean| / predictive scale", (0.0, math.inf), "lower"),
        "klom_bins_*": Metric("median 20-bin KLoM (for comparison with published numbers)", (0.0, math.inf), "lower"),
        "klom_knn_*": Metric("median nearest-neighbour KLoM, from 64 models on", (-math.inf, math.inf), "lower"),
        "klom_p95_*": Metric("95th percentile over examples of Gaussian KLoM", (0.0, math.inf), "lower"),
        "klom_forget": Metric("median Gaussian KLoM on the forget set", (0.0, math.inf), distance=True,
                              asks="at least 4 runs of each method (seeds: 4, or depth deep with shadow models) and 8 "
                                   "references"),
        "klom_*": Metric("median over examples of Gaussian KLoM", (0.0, math.inf), "lower"),
    },
    uses={"labels"},
    needs={"forget", "references"},
    depth="standard",
    blind="It compares margins at the given examples only; two models can agree there and differ elsewhere.",
    trains=lambda cfg, shadows, seed, depth: taken(cfg, shadows, depth),
)
def measure(cfg: KLoM, subject: Subject, panel: Panel) -> list[Value]:
    values = []
    for name in ("forget", "retain", "holdout"):
        if not panel.task.has(name):
            continue
        split = panel.part(getattr(panel.task, name), cfg.limit)
        values.append(_shift(name, split, subject, panel))
        values += _klom(cfg, name, split, subject, panel)
    return [*values, *_excess(cfg, values, panel)]


def _excess(cfg: KLoM, values: list[Value], panel: Panel) -> list[Value]:
    """The shift on the forget set over the one on unseen rows: what changes everywhere is no trace of the forget set."""
    shifts = {value.metric: value for value in values}
    forget, unseen = shifts["margin_shift_forget"], shifts.get("margin_shift_holdout")
    rows = np.zeros(0) if unseen is None else unseen.per_sample[panel.placebo(panel.part(panel.task.holdout, cfg.limit))]
    there = float(np.median(rows)) if len(rows) >= FEWEST else 0.0
    value = forget.value / there if there > 0 else forget.value
    return [Value("margin_shift_excess", value, n=forget.n, detail={"placebo": len(rows), "unseen": there})]


def _shift(name: str, split: Split, subject: Subject, panel: Panel) -> Value:
    location, scale, _ = student_predictive(np.stack([r.numbers(split, "margin") for r in panel.references]))
    shift = np.abs(subject.numbers(split, "margin") - location) / scale
    return Value(f"margin_shift_{name}", float(np.median(shift)), n=len(shift), per_sample=shift)


def _klom(cfg: KLoM, name: str, split: Split, subject: Subject, panel: Panel) -> list[Value]:
    """Nothing when there are not k models on each side."""
    ours, theirs = panel.ensembles(_with_siblings(cfg, subject, panel), cfg.models)
    if not ours:
        return []
    p, q = (np.stack([m.numbers(split, "margin") for m in side]) for side in (theirs, ours))
    exact = gaussian_kl(p, q, cfg.floor)
    others = [r for r in panel.references if r not in ours and r not in theirs][: cfg.models]
    detail = {
        "models": cfg.models, "reverse": float(np.median(gaussian_kl(q, p, cfg.floor))),
        "p": permutation_p(p, q, numpy_generator(panel.seed, "klom", name), cfg.permutations, cfg.floor),
    }
    if len(others) == cfg.models:
        detail["null"] = float(np.median(gaussian_kl(p, np.stack([r.numbers(split, "margin") for r in others]), cfg.floor)))
    found = [
        Value(f"klom_{name}", float(np.median(exact)), n=len(exact), per_sample=exact, detail=detail),
        Value(f"klom_p95_{name}", float(np.quantile(exact, 0.95)), n=len(exact), detail={"models": cfg.models}),
        Value(f"klom_bins_{name}", float(np.median(binned_kl(p, q))), n=len(exact), detail={"models": cfg.models}),
    ]
    if cfg.models >= SHAPELESS:
        found.append(Value(f"klom_knn_{name}", float(np.median(knn_kl(p, q))), n=len(exact), detail={"models": cfg.models}))
    return found


def taken(cfg: KLoM, shadows: Shadows, depth: str) -> list[Wanted]:
    """What siblings are made of: originals trained anew and, for a procedure that retrains, retrained models."""
    count = cfg.models - 1
    if depth != "deep" or shadows.limit < cfg.models or not count:
        return []
    return [shadows.wholes(count), shadows.without(count, "repeated retrained")]


def _with_siblings(cfg: KLoM, subject: Subject, panel: Panel) -> Subject:
    """The subject with models made as it was, from originals trained anew, where it has too few siblings."""
    enough = len(subject.siblings) >= cfg.models - 1 or panel.retrained
    if enough or panel.depth != "deep" or panel.shadows is None or subject.procedure is None or panel.shadows.limit < cfg.models:
        return subject
    return replace(subject, siblings=panel.shadows.repeated(subject.procedure, cfg.models - 1))
