"""Multiplicity: how much a single person's answer depends on which of the equally good models was kept. Ambiguity and
discrepancy: Marx, Calmon & Ustun 2020, arXiv:1909.06677. Rashomon capacity: Hsu & Calmon 2022, arXiv:2206.01295.

    ambiguity = share of examples on which some M_j answers otherwise than M;   discrepancy = max_j share where M_j does
    disagreement = mean_j share where M_j does
    viable range(x) = max_h p_h(ŷ) − min_h p_h(ŷ),  h over M and all M_j, ŷ the answer of M
    capacity(x) = 2^C,  C = max_{w} Σ_h w_h KL(p_h(x) ‖ Σ_g w_g p_g(x)) in bits (Blahut–Arimoto), in [1, number of classes]

M the model, M_j retrained models. Two are as equivalent as retraining is random only if M is not further from them than they
are from each other: disagreement on holdout is held against the yardstick, one-sided. Capacity grows with the number of
models, so the same number is used for every subject.
Needs:    forget, holdout, references.     Cost: none beyond the forward passes of `divergence`.
Limits:   retrained models differ by seed only; other data, other hyper-parameters would widen the set.
"""

from __future__ import annotations

import math

import numpy as np

from lethe.core.config import Count, Positive, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class Multiplicity:
    """Options of the multiplicity audit."""

    limit: Count = 1000          # examples of each split at most, a seeded sample                       [ours]
    gap: Positive = 1e-6         # bits between the bounds on C at which the iteration ends              [ours]
    steps: Count = 500           # of the iteration at most                                              [ours]


def capacity(p: np.ndarray, gap: float = 1e-6, steps: int = 500) -> np.ndarray:
    """C in bits of the channel from models to classes, all examples at once.  [m, n, K] -> [n]

    w ∝ w·exp(D_h), D_h = KL(p_h ‖ mixture); Σ w_h D_h ≤ C ≤ max_h D_h bounds it at every step.
    """
    log_p = np.log(np.maximum(p, 1e-300))
    entropy = (p * log_p).sum(2)                                               # [m, n]
    w = np.full(p.shape[:2], 1 / len(p))
    lower = np.zeros(p.shape[1])
    for _ in range(steps):
        mixture = np.einsum("mn,mnk->nk", w, p)
        distance = entropy - np.einsum("mnk,nk->mn", p, np.log(np.maximum(mixture, 1e-300)))
        lower = (w * distance).sum(0)
        if (distance.max(0) - lower).max() < gap * math.log(2):
            break
        w = w * np.exp(distance - distance.max(0))
        w = w / w.sum(0)
    return np.maximum(lower, 0.0) / math.log(2)


def reference_capacity(p: np.ndarray, points: int = 2001) -> np.ndarray:
    """C of two models by trying every weight.  [2, n, K] -> [n]"""
    def kl(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        divergence: np.ndarray = np.where(a > 0, a * np.log2(np.where(a > 0, a, 1) / b), 0.0).sum(-1)
        return divergence

    best = np.zeros(p.shape[1])
    for w in np.linspace(1e-9, 1 - 1e-9, points):
        mixture = w * p[0] + (1 - w) * p[1] + 1e-300
        best = np.maximum(best, w * kl(p[0], mixture) + (1 - w) * kl(p[1], mixture))
    return best


@audit(
    metrics={
        "disagreement_holdout": Metric("mean share of holdout answers that differ from a retrained model's", better="lower",
                                       tier="utility"),
        "disagreement_*": Metric("mean share of answers that differ from a retrained model's", better="lower"),
        "ambiguity_*": Metric("share of examples on which some retrained model answers otherwise", better="lower"),
        "discrepancy_*": Metric("largest share of answers that differ from one retrained model's", better="lower"),
        "viable_range_*": Metric("mean spread of the probability of the model's answer over all models", better="lower"),
        "capacity_*": Metric("mean Rashomon capacity 2^C: how many answers the models hold possible", (1.0, math.inf), "lower"),
    },
    uses={"labels"},
    needs={"forget", "holdout", "references"},
    depth="standard",
    blind="It compares answers of models that differ by their seed; agreement is not truth.",
)
def measure(cfg: Multiplicity, subject: Subject, panel: Panel) -> list[Value]:
    others = panel.references if panel.retrained else panel.references[:-1]   # equally many for every subject
    values = []
    for name in ("forget", "holdout"):
        split = panel.part(getattr(panel.task, name), cfg.limit)
        p = np.stack([m.seen(split)["logits"].double().softmax(-1).numpy() for m in (subject, *others)])
        answer = p.argmax(2)
        differs = answer[1:] != answer[0]                                      # [R, n]
        probability = np.take_along_axis(p, answer[:1, :, None], 2)[..., 0]          # [1 + R, n] probability of the answer of M
        bits = capacity(p, cfg.gap, cfg.steps)
        values += [
            mean_value(f"disagreement_{name}", differs.mean(0)), mean_value(f"ambiguity_{name}", differs.any(0).astype(float)),
            Value(f"discrepancy_{name}", float(differs.mean(1).max()), n=len(split)),
            mean_value(f"viable_range_{name}", probability.max(0) - probability.min(0)), mean_value(f"capacity_{name}", 2**bits),
        ]
    return values
