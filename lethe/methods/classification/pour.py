"""POUR: remove the forgotten class's direction from the features. Le, Peng, Liu & Noble (2025), "POUR: A Provably Optimal
Method for Unlearning Representations via Neural Collapse", arXiv:2511.19339.

    P = I − Q Qᵀ,    Q orthonormal basis of the directions of the forgotten classes
    projection (POUR-P)     W ← W P: the head sees P z_0(x) only
    distillation (POUR-D)   L(θ) = E_{x∈F} ‖z_θ(x) − P z_0(x)‖²,  the head unchanged

F forget set, z features (the head's input), z_0 those of the original (frozen), W [K, d] the head's weights. The direction of
class c is row c of W, or the mean of z_0 over its examples (`mean`). Where features have collapsed onto an equiangular tight
frame, the other K − 1 classes still form one after P, and the forgotten class falls to the origin.
Needs:    forget, original.     Updates: the head's weight (projection), or everything but the head (distillation).
Cost:     projection: none, or one forward pass over F for `mean`. Distillation: one forward/backward on F per step.
Limits:   every logit of a forgotten class is its bias after the projection. Orthogonal rows lose nothing: W P = W but for row
          c.
Fails by: projection leaves the features as they were, so a new head on them knows the class: it hides. Distillation has
          nothing that holds retained data: lr decides; and as projected logits are nearly level, small errors give the class
          back.
Deviations: known from the abstract and a public summary, not from code. P is folded into the head, which gives the same
          outputs. Several classes go together, by their span. Optimiser, lr and epochs of the distillation are ours.
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
from lethe.errors import RequestError
from lethe.train.loop import Loop, Term


@config
class POUR:
    """Options of POUR."""

    variant: Literal["projection", "distillation"] = "projection"   # POUR-P or POUR-D       [paper: both]
    direction: Literal["head", "mean"] = "head"    # rows of the head, or class means        [paper]
    lr: Positive = 3e-3                # distillation only [only with variant=distillation] [ours, digits CNN]
    epochs: Positive = 40.0            # passes over F; distillation only [only with variant=distillation] [ours, digits CNN]
    batch_size: Count = 64             # examples per step [only with variant=distillation] [ours]
    optimiser: Optimiser = "adam"      # update rule [only with variant=distillation] [ours]
    weight_decay: NonNegative = 0.0    # pull towards 0 [only with variant=distillation] [ours]
    clip: Positive | None = None       # largest gradient norm; null: none [only with variant=distillation] [ours]


def complement(directions: Tensor) -> Tensor:
    """P, the projection on the orthogonal complement.  [g, d] -> [d, d]

    Direction (3, 4): P = ((16, −12), (−12, 9))/25.
    """
    u, scale, _ = torch.linalg.svd(directions.double().T, full_matrices=False)
    q = u[:, scale > 1e-6 * scale.max()]
    projector: Tensor = (torch.eye(len(q), dtype=q.dtype, device=q.device) - q @ q.T).to(directions.dtype)
    return projector


def class_means(task: ClassificationTask, loop: Loop, classes: Tensor) -> Tensor:
    """Mean features of each class on the original.  [g] -> [g, d]"""
    original, parts = task.original.to(loop.settings.device), []
    with evaluating(original):
        parts = [(task.features(original, batch), batch.y) for batch in loop.drawn(task.forget, 256, "pour")]
    features, y = (torch.cat(column) for column in zip(*parts, strict=True))
    loop.cost.examples += len(y)
    return torch.stack([features[y == c].mean(0) for c in classes])


@method(needs={"forget", "original"}, uses={"features", "head", "labels"}, mechanism="features")
def run(cfg: POUR, task: ClassificationTask, loop: Loop) -> Outcome:
    head: str = task.head
    name = f"{head}.weight"
    classes = task.forget.columns["y"].unique()
    weight = task.original.get_parameter(name).to(loop.settings.device)
    if len(classes) == len(weight):
        raise RequestError(f"the forget set holds examples of all {len(weight)} classes, and POUR removes every class that "
                           "occurs in it, so nothing would remain; nothing was started. Choose a method for single examples: "
                           "scrub, neggrad_plus.")
    model = loop.start()
    p = complement(weight.detach()[classes] if cfg.direction == "head" else class_means(task, loop, classes))
    if cfg.variant == "projection":
        return loop.finish(loop.assign(model, {name: weight.detach() @ p}))
    target = loop.reference("pour", lambda m, b: task.features(m, b) @ p, task.forget)

    def loss(m: nn.Module, batch: Batch) -> Tensor:
        return (task.features(m, batch) - target(batch)).square().sum(1)

    loop.minimise(model, {"forget": Term(task.forget, loss)}, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip,
                  masks={key: torch.zeros_like(value, dtype=torch.bool) for key, value in loop.selected(model).items()
                         if key.startswith(f"{head}.")})
    return loop.finish(model)
