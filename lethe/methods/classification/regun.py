"""ReGUn, reference-guided unlearning: answer on forgotten data as the original answers on unseen data. Mirlach, Laguna & Vogt
(2026), "Reference-Guided Machine Unlearning", arXiv:2603.11210.

    L(θ) = λ · E_{x∈B_F} KL( q ‖ p_θ(x) )  +  E_{(x,y)∈R} ℓ(θ; x, y),      q = (1/m) Σ_j p_0(x̃_j),   x̃_j ∈ H

B_F a batch of the forget set F, R retain set, ℓ cross-entropy, p_θ class probabilities, p_0 those of the original (frozen).
H is the half of holdout that tasks hand to methods; membership audits take their non-members from the other one, since answers
on H are what is taught.
match  batch  one q for the batch: m = |B_F| unseen examples with the same labels, drawn anew at every step
       class  each x has its own q: the mean answer to all unseen examples with its label
Needs:    forget, retain, holdout, original.     Updates: every trainable parameter.
Cost:     one forward/backward on F and one on R per step; one pass of the original over H.
Limits:   λ = 0 is fine-tuning on R. With batches of a single label both ways of matching aim at the same mean.
Fails by: batches of many labels, whose one q is nearly uniform: for λ near 1 it ruins the answers to every example. A class that
          goes: unseen examples of it are known as well, so next to nothing is forgotten.
Deviations: λ is ours; the weights of the paper's two terms were not at hand. The mean answer by class, for each example alone, is
          a variant of ours.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.errors import NeedsUnmet
from lethe.maths.losses import kl
from lethe.train.loop import Loop, Term


@config
class ReGUn:
    """Options of ReGUn."""

    match: Literal["batch", "class"] = "batch"   # what q is a mean over                     [paper: batch]
    strength: NonNegative = 0.03       # λ, weight of the forget term; 0 forgets nothing     [ours, digits CNN]
    lr: Positive = 1e-2                # SGD                                                 [ours, digits CNN]
    epochs: Positive = 10.0            # passes over R                                       [ours, digits CNN]
    batch_size: Count = 64             # examples of each term per step, and m               [ours]
    optimiser: Optimiser = "sgd"       # update rule                                         [ours]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [ours]
    clip: Positive | None = None       # largest gradient norm; null: none                   [ours]


def matched(labels: Tensor, answers: Tensor, owners: Tensor, rng: torch.Generator) -> Tensor:
    """Mean answer of unseen examples drawn to have the labels of the batch, the same row for all.  [n], [h, K], [h] -> [n, K]

    Drawn with replacement. Labels (0, 1), one unseen example of each that answers (1, 0) and (½, ½): (¾, ¼) twice.
    """
    places = [torch.nonzero(owners == label)[:, 0] for label in labels.tolist()]
    drawn = torch.stack([rows[torch.randint(len(rows), (), generator=rng)] for rows in places])
    return answers[drawn].mean(0).expand(len(labels), -1)


def class_means(answers: Tensor, owners: Tensor) -> Tensor:
    """Mean answer to the unseen examples of each label; 0 for a label without any.  [h, K], [h] -> [K, K]"""
    sums = torch.zeros(answers.shape[1], answers.shape[1]).index_add_(0, owners, answers)
    return sums / torch.bincount(owners, minlength=answers.shape[1]).clamp(min=1).unsqueeze(1)


@method(needs={"forget", "retain", "holdout", "original"}, uses={"labels", "nll", "outputs"}, mechanism="distil")
def run(cfg: ReGUn, task: ClassificationTask, loop: Loop) -> Outcome:
    unseen = task.holdout
    owners = unseen.columns["y"]
    lost = sorted(set(task.forget.columns["y"].tolist()) - set(owners.tolist()))
    if lost:
        raise NeedsUnmet(f"none of the {len(unseen)} holdout examples that fall to the reference set has label "
                         f"{', '.join(map(str, lost))}, so there is no reference for the forgotten ones; nothing was started. "
                         "Provide more holdout data of these classes.")
    original = task.original.to(loop.settings.device)
    with evaluating(original):
        answers = torch.cat([task.outputs(original, b).float().softmax(-1).cpu() for b in loop.drawn(unseen, 256, "regun")])
    means = class_means(answers, owners)

    def refer(batch: Batch, rng: torch.Generator) -> Batch:
        q = matched(batch.y, answers, owners, rng) if cfg.match == "batch" else means[batch.y]
        return batch.replace(reference=q)

    def distil(m: nn.Module, batch: Batch) -> Tensor:
        return kl(batch.reference.log(), task.outputs(m, batch))   # log q are logits of q

    model = loop.start()
    terms = {"retain": Term(task.retain, task.nll), "forget": Term(task.forget, distil, cfg.strength, prepare=refer)}
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)
