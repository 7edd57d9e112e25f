"""Calibration: whether the model is as often right as it is confident. Guo et al. 2017, arXiv:1706.04599; equal-mass bins and the
debiased error: Kumar, Liang & Ma 2019, arXiv:1909.10155.

    ECE = Σ_b w_b |conf_b − acc_b|;     debiased error = √max(0, Σ_b w_b [(conf_b − acc_b)² − acc_b(1 − acc_b)/(n_b − 1)])
    Brier = mean Σ_k (p_k − 1{y = k})²;    NLL = mean −log p_y

conf_b, acc_b mean confidence and accuracy in bin b of equally many examples, sorted by confidence; w_b the bin's share. The
plain ECE is above 0 for a perfectly calibrated model: 15 bins of 20 examples read 0.07 where the truth is 0; the second form
subtracts that expectation.
On test (holdout where there is none) without examples of removed labels. ECE is held against the yardstick, one-sided:
better calibrated than retrained models is no fault.
Needs:    holdout.     Cost: none beyond the forward pass of `scores`.
Limits:   confidence of the top class only; a model may be calibrated on average and wrong in groups.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class Calibration:
    """Options of the calibration audit."""

    bins: Count = 15      # of equally many examples; fewer where there are less than 20 for each           [Guo et al.: 15]
    limit: Count = 4000   # examples at most, a seeded sample                                               [ours]
    fewest: Count = 40    # examples below which nothing is reported                                        [ours]


def binned(confidence: np.ndarray, right: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean confidence, accuracy, count) of bins of equally many examples.  [n], [n] -> 3 × [bins]"""
    order = np.argsort(confidence, kind="stable")
    edges = np.linspace(0, len(order), bins + 1).round().astype(int)
    count = np.diff(edges)
    sums = [np.add.reduceat(x[order].astype(float), edges[:-1]) / count for x in (confidence, right)]
    return sums[0], sums[1], count


def reference_binned(confidence: np.ndarray, right: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same, bin by bin."""
    order = np.argsort(confidence, kind="stable")
    edges = [round(i * len(order) / bins) for i in range(bins + 1)]
    parts = [order[a:b] for a, b in pairwise(edges)]
    return (np.array([confidence[p].mean() for p in parts]), np.array([right[p].mean() for p in parts]),
            np.array([len(p) for p in parts]))


def ece(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Expected calibration error with equal-mass bins."""
    stated, actual, count = binned(confidence, right, bins)
    return float((count * np.abs(stated - actual)).sum() / count.sum())


def sampling_error(actual: np.ndarray, count: np.ndarray) -> float:
    """Standard error of the expected calibration error by its answers, right or wrong: √(Σ_b n_b·a_b·(1 − a_b))/n.  [B], [B]"""
    return math.sqrt(float((count * actual * (1 - actual)).sum())) / float(count.sum())


def debiased_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Root mean squared calibration error less its expectation for a calibrated model; bins need 2 examples each."""
    stated, actual, count = binned(confidence, right, bins)
    squares = (stated - actual) ** 2 - actual * (1 - actual) / (count - 1)
    return math.sqrt(max(0.0, float((count * squares).sum() / count.sum())))


@audit(
    metrics={
        "ece": Metric("expected calibration error, equal-mass bins", better="lower", tier="utility"),
        "calibration_error": Metric("debiased root mean squared calibration error", better="lower"),
        "brier": Metric("mean squared error of all class probabilities", (0.0, 2.0), "lower"),
        "nll": Metric("mean negative log-likelihood, nats", (0.0, math.inf), "lower"),
        "confidence": Metric("mean probability of the answer given", better="higher"),
    },
    uses={"labels"},
    needs={"forget", "holdout"},
    blind="It sees the probability of the answer given, averaged; groups that are over- and under-confident cancel.",
)
def measure(cfg: Calibration, subject: Subject, panel: Panel) -> list[Value]:
    split = panel.part(panel.task.test if panel.task.has("test") else panel.task.holdout, cfg.limit)
    kept = ~panel.removed(split)
    if kept.sum() < cfg.fewest:
        return []
    seen = subject.seen(split)
    p, y = seen["logits"].double().softmax(-1).numpy()[kept], seen["y"].numpy()[kept]
    confidence, right = p.max(1), (p.argmax(1) == y).astype(float)
    bins = max(2, min(cfg.bins, len(y) // 20))
    stated, actual, count = binned(confidence, right, bins)
    curve = {"confidence": stated.round(4).tolist(), "accuracy": actual.round(4).tolist(), "count": count.tolist()}
    squares = (p**2).sum(1) - 2 * p[np.arange(len(y)), y] + 1
    error, half = ece(confidence, right, bins), 1.96 * sampling_error(actual, count)
    return [Value("ece", error, max(0.0, error - half), min(1.0, error + half), len(y), detail={"bins": curve}),
            Value("calibration_error", debiased_error(confidence, right, bins), n=len(y)),
            mean_value("brier", squares), mean_value("nll", subject.numbers(split, "nll")[kept]),
            mean_value("confidence", confidence)]
