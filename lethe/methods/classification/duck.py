"""DUCK: pull the features of forgotten examples to the centre of the nearest wrong class, and go on training on the rest.
Cotogni, Bonato, Sabetta, Pelosin & Nicolosi (2023), "DUCK: Distance-based Unlearning via Centroid Kinematics",
arXiv:2312.02052.

    L(θ) = λ_f · E_{(x,y)∈F} (1 − cos(h_θ(x), c_t(x)))  +  λ_r · E_{(x,y)∈R} ℓ(z_θ(x)/T, y)
    t(x) = argmin_{k≠y} (1 − cos(h_0(x), c_k)),    c_k = mean of h_0 over the retained examples of class k

F forget set, R retain set, h_θ features before the head, h_0 those of the original, z logits, ℓ cross-entropy, T temperature.
The target class is fixed once; a class without retained examples has no centre. Stops when the accuracy on F is at most
`target` (of a class: near 0; of examples whose class stays: what unseen data of their kind would get), measured after every
pass. Then `settle` passes with lr/4 and λ_f/10.
Needs:    forget, retain, original.     Updates: every trainable parameter.
Cost:     one pass of the original over R and F; one forward/backward on F and one on R per step.
Limits:   λ_f = 0 is fine-tuning on R with logits divided by T; λ_r = 0 has nothing to hold R.
Fails by: answers on F that are confident and wrong: a retrained model is not confident there, and the pairing of classes shows.
Deviations: centres from all of R, not from its first 50 batches; F is cycled over passes of R instead of R in rounds over F.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Natural, NonNegative, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.core.words import number
from lethe.errors import NeedsUnmet
from lethe.maths.losses import cross_entropy
from lethe.train.loop import Loop, Term


@config
class DUCK:
    """Options of DUCK."""

    pull: NonNegative = 1.0            # λ_f, weight of the pull to the wrong centre         [official code]
    hold: NonNegative = 1.5            # λ_r, weight of the training loss on R               [official code]
    temperature: Positive = 2.0        # T; larger softens the training loss on R            [official code]
    target: Fraction = 0.01            # accuracy on F that is enough                        [official code, class removal]
    lr: Positive = 1e-3                # Adam                                                [ours, digits CNN; official 4e-4]
    epochs: Count = 10                 # passes over R at most                               [official code: 10–200]
    settle: Natural = 2                # passes at lr/4 and λ_f/10 after that                [official code]
    batch_size: Count = 64             # examples of each term per step                      [ours; official 256]
    optimiser: Literal["sgd", "adam"] = "adam"   # update rule [official code]


def centres(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean feature of each class; NaN for a class without examples.  [n, d], [n] -> [K, d]"""
    sums = torch.zeros(classes, features.shape[1], dtype=torch.float64).index_add_(0, labels, features.double())
    return (sums / torch.bincount(labels, minlength=classes).unsqueeze(1)).float()


def nearest_wrong(features: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """The class k ≠ y with the largest cosine to its centre.  [n, d], [n], [K, d] -> [n]

    Feature (1, 1), label 0, centres (1, 1), (1, 0), (−1, 0): class 0 is excluded, cosines 0.71 and −0.71: class 1.
    """
    cosine = F.normalize(features, dim=1) @ F.normalize(centres, dim=1).T
    barred = cosine.isnan() | F.one_hot(labels, len(centres)).bool()
    return cosine.masked_fill(barred, float("-inf")).argmax(1)


def distance(features: Tensor, targets: Tensor) -> Tensor:
    """1 − cos, in [0, 2].  [n, d], [n, d] -> [n]"""
    return 1 - F.cosine_similarity(features, targets, dim=1)


@method(needs={"forget", "retain", "original"},
        uses={"class_count", "features", "labels", "observe", "outputs"}, mechanism="features")
def run(cfg: DUCK, task: ClassificationTask, loop: Loop) -> Outcome:
    model = loop.start()
    means = class_centres(task, loop)
    chosen = loop.reference("duck", lambda m, b: nearest_wrong(task.features(m, b), b.y, means), task.forget)

    def pull(m: nn.Module, batch: Batch) -> Tensor:
        return distance(task.features(m, batch), means[chosen(batch)])

    def hold(m: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(task.outputs(m, batch) / cfg.temperature, batch.y)

    def epoch(share: float) -> None:
        terms = {"retain": Term(task.retain, hold, cfg.hold), "forget": Term(task.forget, pull, cfg.pull * share)}
        loop.minimise(model, terms, lr=cfg.lr * (1.0 if share == 1 else 0.25), epochs=1, batch_size=cfg.batch_size,
                      optimiser=cfg.optimiser)

    for done in range(cfg.epochs):
        epoch(1.0)
        accuracy = score(task, loop, model)
        if accuracy <= cfg.target:
            loop.notes.append(f"stopped after pass {done + 1}: accuracy on the forget set is {number(accuracy)}")
            break
    for _ in range(cfg.settle):
        epoch(0.1)
    return loop.finish(model)


def class_centres(task: ClassificationTask, loop: Loop) -> Tensor:
    """Class centres of the original's features on the retain set.  -> [K, d]"""
    original = task.original.to(loop.settings.device)
    with evaluating(original):
        found = [(task.features(original, b).cpu(), b.y.cpu()) for b in loop.drawn(task.retain, 256, "duck")]
    labels = torch.cat([y for _, y in found])
    if len(labels.unique()) < 2:
        raise NeedsUnmet("the retain set holds a single class, so its examples have no wrong centre to go to; nothing was "
                         "started. Provide retained data of at least two classes.")
    return centres(torch.cat([h for h, _ in found]), labels, task.class_count).to(
        loop.settings.device)


def score(task: ClassificationTask, loop: Loop, model: nn.Module) -> float:
    """Mean score on the forget set, in eval mode."""
    with evaluating(model):
        scores = [task.observe(model, batch)["score"] for batch in loop.drawn(task.forget, 256, "duck")]
    return float(torch.cat(scores).mean())
