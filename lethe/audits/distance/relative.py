"""Relative: is the model nearer to a retrained one or to the original? After Ribero, Schrab & Gretton, AISTATS 2026.

    φ       random Fourier features of what a model answers on one example (its signal and, of classes, all log-probabilities)
    D(P, Q) = (μ_P − μ_Q)ᵀ (Σ + λ)⁻¹ (μ_P − μ_Q)          regularised χ² by kernels, Σ: pooled over S and O
    T       = D(U, S) − D(U, O) = mean_i g_i,   g_i = (φ(s_i) − φ(o_i))ᵀ (Σ + λ)⁻¹ (μ_S + μ_O − 2 μ_U)
    relative = T / D(S, O)                                −1: at the retrained model S, +1: at the original O

u_i, s_i, o_i: the answers of the audited model, a retrained model and the original on forgotten example i. Where F left no
trace, s_i and o_i can be exchanged, which only flips the sign of g_i: the p-value is that of random flips, exact at any n, of the
largest standardised T over bandwidths (½, 1, 2 medians) and λ (0.1, 0.01, 0.001 of the trace). A retrained model of another batch
size differs from S, and is nearer to S than to O all the same: that is what is asked. Models also differ everywhere, by their
seeds: the same T on unseen data like F is the placebo, and T must exceed it by 1.645 standard errors, too, on the same side.
Unseen data of a class that is to vanish change as F does and are no placebo; there the scores of S and O must differ by `FAR`.
Judged with one to three retrained models, which are too few for a band: outside, nearer to the original; inside, nearer to the
retrained model; not enough power, neither. With more, shown.
Needs:    forget, original, one retrained model; holdout for the placebo.     Cost: nothing beyond the shared passes.
Limits:   it sees what answers on F show; which of the two is nearer is no claim that the model equals either. It has power where
          the original answers F otherwise than retrained models do (wrong labels learned by heart), and little where it does
          not; a model that was only fine-tuned is often called neither.
Deviations: the paper's hockey-stick and other divergences are replaced by χ² and MMD (large λ); signs are flipped by
          example, since all three models answer on the same ones; the placebo is ours.
"""

from __future__ import annotations

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject

WIDTHS, LAMBDAS = (0.5, 1.0, 2.0), (0.1, 0.01, 0.001)
FEWEST = 10          # examples below which no test is made
EDGE = 1.644854      # normal quantile of one side at 5 %
Z = 1.959964
FAR = 0.2            # of the score on a class that is to vanish, by which reference and original must differ
NOTHING = 1e-3       # standard errors of a value that shows nothing


@config
class Relative:
    """Options of the relative test."""

    features: Count = 100     # random Fourier features of each bandwidth                [ours]
    flips: Count = 2000       # random signs behind the p-value                          [usual]


@audit(
    metrics={
        "relative": Metric("distance to a retrained model less that to the original, over the distance of these two", (-1.0, 1.0),
                           null=0.0),
    },
    uses={"observe"},
    needs={"forget", "original", "reference", "holdout?"},
    blind="It compares answers on the forget set with one retrained model: traces that they do not show are invisible to it.",
)
def measure(cfg: Relative, subject: Subject, panel: Panel) -> list[Value]:
    task = panel.task
    if not panel.references or len(task.forget) < FEWEST:
        return []
    trio = (subject, panel.references[0], panel.original)
    u, s, o = (answers(model, task.forget) for model in trio)
    whole = bool(panel.removed(task.forget).all())
    unseen = panel.unseen() if task.has("holdout") and not whole else np.zeros(0, dtype=bool)
    placebo = [answers(model, task.holdout)[unseen] for model in trio] if unseen.sum() >= FEWEST else None
    found = nearer(u, s, o, placebo=placebo, features=cfg.features, flips=cfg.flips, seed=panel.seed)
    if found is None:
        return []
    value, error = found
    scores = [float(model.numbers(task.forget, "score").mean()) for model in trio[1:]]
    if whole and abs(scores[0] - scores[1]) < FAR:
        error = abs(value) / NOTHING   # both score the class alike, so what they differ by may be their seeds
    detail = {"references": len(panel.references), "undecided": value + EDGE * error > 0, "placebo": placebo is not None}
    return [Value("relative", value, value - Z * error, value + Z * error, len(task.forget), detail=detail)]


def answers(model: Subject, split: Split) -> np.ndarray:
    """What is compared of each example.  -> [n, q]"""
    seen = model.seen(split)
    columns = [seen["signal"].double().flatten(1) if seen["signal"].dim() > 1 else seen["signal"].double().unsqueeze(1)]
    if "logits" in seen and seen["logits"].dim() == 2:
        columns.append(seen["logits"].double().log_softmax(1))
    return np.concatenate([column.numpy() for column in columns], 1)


def nearer(u: np.ndarray, s: np.ndarray, o: np.ndarray, placebo: list[np.ndarray] | None = None, features: int = 100,
           flips: int = 2000, seed: int = 0) -> tuple[float, float] | None:
    """(T/D(S, O), the standard error that gives the normal p-value of the test); None where S and O answer alike.  [n, q] each"""
    from scipy.stats import norm

    rng = numpy_generator(seed, "relative")
    centre, spread = np.concatenate([s, o]).mean(0), np.concatenate([s, o]).std(0)
    if not spread.max() > 1e-9:
        return None
    signs = rng.choice((-1.0, 1.0), (flips, len(u)))
    scores, ratios, extra = [], [], []
    for width in WIDTHS:
        maps = _features(features, u.shape[1], rng)
        lifted = [_lift((x - centre) / np.maximum(spread, 1e-9), maps, width) for x in (u, s, o)]
        beside = None if placebo is None else [_lift((x - centre) / np.maximum(spread, 1e-9), maps, width) for x in placebo]
        for share in LAMBDAS:
            root = _whitening(np.concatenate(lifted[1:]), share)
            g, moves, whole = _parts(*(x @ root for x in lifted))
            if not whole > 0 or not g.any():
                continue
            scores.append(g / np.sqrt((g**2).sum()))
            ratios.append(float(g.mean()) / whole)
            if beside is not None:
                extra.append(_excess(moves, _parts(*(x @ root for x in beside))[1]))
    if not scores:
        return None
    value = float(np.clip(np.mean(ratios), -1, 1))
    side = 1.0 if value > 0 else -1.0
    table = np.stack(scores)                                            # [configs, n], each of unit length
    seen, thrown = (side * table.sum(1)).max(), (signs @ table.T).max(1)
    z = float(norm.isf((1 + (thrown >= seen).sum()) / (1 + flips)))
    if extra:
        z = min(z, side * float(np.mean(extra)))
    return value, abs(value) / max(z, NOTHING)


def _parts(u: np.ndarray, s: np.ndarray, o: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """g of each example, what the example moves T by (of mean T), and D(S, O), of whitened features.  [n, m] each -> [n], [n]"""
    away, apart = s + o - 2 * u, s - o
    g: np.ndarray = apart @ away.mean(0)
    moves: np.ndarray = g + away @ apart.mean(0) - g.mean()
    return g, moves, float((apart.mean(0) ** 2).sum())


def _excess(here: np.ndarray, there: np.ndarray) -> float:
    """Difference of two means in standard errors.  [n], [m]"""
    error = np.sqrt(here.var(ddof=1) / len(here) + there.var(ddof=1) / len(there))
    return float((here.mean() - there.mean()) / max(error, 1e-300))


def _features(count: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(width, count)), rng.uniform(0, 2 * np.pi, count)


def _lift(x: np.ndarray, maps: tuple[np.ndarray, np.ndarray], width: float) -> np.ndarray:
    """√2 cos(xw/h + b): features of a Gaussian kernel, h the width times √q.  [n, q] -> [n, m]"""
    lifted: np.ndarray = np.sqrt(2 / len(maps[1])) * np.cos(x @ maps[0] / (width * np.sqrt(x.shape[1])) + maps[1])
    return lifted


def _whitening(x: np.ndarray, share: float) -> np.ndarray:
    """(Σ + λ)^(−½), λ a share of the trace.  [n, m] -> [m, m]"""
    values, vectors = np.linalg.eigh(np.cov(x.T))
    level = share * max(float(values.sum()), 1e-12)
    root: np.ndarray = vectors / np.sqrt(np.maximum(values, 0) + level)
    return root
