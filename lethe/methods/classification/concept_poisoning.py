"""Concept poisoning: find the visible features that make a class, and teach its examples the class that their other features
suggest. Chang et al. (2024), "Class Machine Unlearning for Complex Data via Concepts Inference and Data Poisoning",
arXiv:2405.15662.

    c_k(x) = ⟨h_0(x), v_k⟩ + b_k     v_k concept activation vector: ridge regression of ±1 (concept there or not) on the features
    g(c) = Wᵀc + b                   concept bottleneck: ridge regression of the original's logits on c over R ∪ F
    IG_k(x) = (c_k(x) − c̄_k)·W_{k,y},   c̄ mean of c over R;   K = the `top` concepts of largest mean IG over F
    L(θ) = E_{x∈F} ℓ(θ; x, t(x))  +  α · E_{(x,y)∈R} ℓ(θ; x, y)

F forget set, R retain set, h_0 features of the original, y label, ℓ cross-entropy. IG are integrated gradients, exact because g
is linear. labels = targeted: t(x) = argmax_{j≠y} g_j(c'), c' with the concepts of K set to c̄ (per example); random: uniform
over the others, drawn anew at every step. `concepts` names columns of both sets that hold 0 or 1; without any, every class of R
and F is a concept. A concept whose vector separates it from the rest on held-out data with a balanced accuracy below `least` is
left out.
Needs:    forget, retain, original.     Updates: every trainable parameter.
Cost:     one pass of the original over R and F, a few ridge regressions; one forward/backward on F and one on R per step.
Limits:   α = 0 drops the retain term; top = 0 and class concepts label by the runner-up of g.
Fails by: concepts that siblings share go with the class. All of a class's examples under few new labels leave a visible mapping.
Deviations: only the abstract describes the published procedure; regressions, sizes, labels and the fine-tuning are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Natural, NonNegative, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import numpy_generator
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.maths.losses import cross_entropy
from lethe.maths.ridge import ridge
from lethe.train.loop import Loop, Term


@config
class ConceptPoisoning:
    """Options of concept poisoning."""

    concepts: tuple[str, ...] = ()     # columns of 0 and 1; none: the classes [tested in test_concept_poisoning] [ours]
    labels: Literal["targeted", "random"] = "targeted"   # what F is taught                  [paper: both]
    top: Natural = 0                   # size of K, taken out before a label is chosen       [ours, digits CNN]
    least: Fraction = 0.6  # balanced accuracy that a concept vector must reach [tested in test_concept_poisoning] [ours]
    penalty: Positive = 1e-2           # of both regressions, in mean eigenvalues            [ours]
    alpha: NonNegative = 1.0           # weight of the retain term                           [ours]
    lr: Positive = 1e-3                # Adam                                                [ours, digits CNN]
    epochs: Positive = 5.0             # passes over R                                       [ours, digits CNN]
    batch_size: Count = 64             # examples of each term per step                      [ours]
    optimiser: Literal["sgd", "adam"] = "adam"   # update rule [ours]


@dataclass(frozen=True)
class Bank:
    """Concepts in feature space and what the bottleneck makes of them."""

    names: tuple[str, ...]
    vectors: np.ndarray      # [d, M]
    offsets: np.ndarray      # [M]
    weights: np.ndarray      # [M, K]
    bias: np.ndarray         # [K]
    level: np.ndarray        # [M], c̄


def attributions(c: np.ndarray, level: np.ndarray, weights: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(c − c̄)·W[:, y].  [n, M], [M], [M, K], [n] -> [n, M]; c (3, 1), c̄ (1, 1), W of the label (2, 5): (4, 0)"""
    found: np.ndarray = (c - level) * weights[:, labels].T
    return found


def poisoned(c: np.ndarray, bank: Bank, gone: list[int], labels: np.ndarray) -> np.ndarray:
    """The best class but y when the concepts in `gone` are at their mean.  [n, M], [n] -> [n]"""
    left = c.copy()
    left[:, gone] = bank.level[gone]
    logits = left @ bank.weights + bank.bias
    logits[np.arange(len(logits)), labels] = -np.inf
    best: np.ndarray = logits.argmax(1)
    return best


def balanced(scores: np.ndarray, there: np.ndarray) -> float:
    """Mean of the accuracies on positive and on negative examples; NaN without one of them.  [n] of ±1 -> share"""
    if there.min() == there.max():
        return float("nan")
    return float(((scores[there > 0] > 0).mean() + (scores[there < 0] <= 0).mean()) / 2)


def vector(x: np.ndarray, there: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Ridge regression of ±1 with the rarer side weighed up by repetition of its mean: (v, b).  [n, d], [n] -> [d], float"""
    w, b = ridge(x, there[:, None], penalty)
    scores = (x @ w + b)[:, 0]
    middle = (scores[there > 0].mean() + scores[there < 0].mean()) / 2   # imbalance moves the level, not the direction
    return w[:, 0], float(b[0] - middle)


@method(needs={"forget", "retain", "original"}, uses={"forward", "labels", "nll", "outputs", "relabel"}, mechanism="relabel")
def run(cfg: ConceptPoisoning, task: ClassificationTask, loop: Loop) -> Outcome:
    model = loop.start()
    (x_f, z_f), (x_r, z_r) = (seen(task, loop, split) for split in (task.forget, task.retain))
    y_f = task.forget.columns["y"].numpy()
    bank = fitted(cfg, task, loop, np.concatenate([x_f, x_r]), np.concatenate([z_f, z_r]), x_r)
    c = x_f @ bank.vectors + bank.offsets
    mass = attributions(c, bank.level, bank.weights, y_f).mean(0)
    gone = np.argsort(-mass, kind="stable")[: cfg.top].tolist()
    leading = ", ".join(bank.names[k] for k in np.argsort(-mass, kind="stable")[: max(3, cfg.top)])
    loop.notes.append(f"leading concepts of the forgotten examples: {leading}")
    targets = torch.from_numpy(poisoned(c, bank, gone, y_f)).to(loop.settings.device)

    def teach(m: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(task.outputs(m, batch), targets[batch.index.to(targets.device)])

    forget = Term(task.forget, teach) if cfg.labels == "targeted" else Term(task.forget, task.nll, prepare=task.relabel)
    loop.minimise(model, {"retain": Term(task.retain, task.nll, cfg.alpha), "forget": forget}, lr=cfg.lr, epochs=cfg.epochs,
                  batch_size=cfg.batch_size, optimiser=cfg.optimiser)
    return loop.finish(model)


def fitted(
    cfg: ConceptPoisoning, task: ClassificationTask, loop: Loop, x: np.ndarray, logits: np.ndarray, retained: np.ndarray
) -> Bank:
    """Concept vectors that hold on held-out examples, and the bottleneck on them."""
    marks = present(cfg, task)
    order = numpy_generator(loop.seed, "concepts").permutation(len(x))
    fit, check = order[len(x) // 5 :], order[: len(x) // 5]
    kept: dict[str, tuple[np.ndarray, float]] = {}
    for name, there in marks.items():
        if there[fit].min() == there[fit].max():
            continue
        v, b = vector(x[fit], there[fit], cfg.penalty)
        if not balanced(x[check] @ v + b, there[check]) < cfg.least:   # NaN: none held out to judge by
            kept[name] = vector(x, there, cfg.penalty)
    if not kept:
        raise RequestError(f"none of {len(marks)} concepts is separable from the rest with accuracy of {cfg.least:g}, so "
                           "nothing was started. Lower method.least, or set other method.concepts.")
    vectors, offsets = np.stack([v for v, _ in kept.values()], 1), np.array([b for _, b in kept.values()])
    c = x @ vectors + offsets
    weights, bias = ridge(c, logits, cfg.penalty)
    agree = float(((c @ weights + bias).argmax(1) == logits.argmax(1)).mean())
    if agree < 0.8:
        loop.notes.append(f"{len(kept)} concepts explain only {agree:.2f} of the original's answers: weak evidence")
    return Bank(tuple(kept), vectors, offsets, weights, bias, (retained @ vectors + offsets).mean(0))


def present(cfg: ConceptPoisoning, task: ClassificationTask) -> dict[str, np.ndarray]:
    """±1 for every example of F and then R, by concept."""
    if not cfg.concepts:
        y = torch.cat([task.forget.columns["y"], task.retain.columns["y"]]).numpy()
        return {f"class {k}": np.where(y == k, 1.0, -1.0) for k in np.unique(y).tolist()}
    columns = {name: np.concatenate([np.asarray(split.column(name), float) for split in (task.forget, task.retain)])
               for name in cfg.concepts}
    for name, values in columns.items():
        if not np.isin(values, (0, 1)).all():
            raise RequestError(f"method.concepts: column {name!r} holds other values than 0 and 1, so nothing was started. "
                               "Say for each example whether the concept is there.")
    return {name: 2 * values - 1 for name, values in columns.items()}


def seen(task: ClassificationTask, loop: Loop, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The original's features and logits, in float64.  -> [n, d], [n, K]"""
    original = task.original.to(loop.settings.device)
    with evaluating(original):
        found = [task.forward(original, batch) for batch in loop.drawn(split, 256, "concepts")]
    logits, features = (torch.cat([pair[place].double().cpu() for pair in found]).numpy() for place in (0, 1))
    return features, logits
