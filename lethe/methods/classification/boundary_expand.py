"""Boundary Expanding: teach the forgotten examples an extra class of their own, then remove that class. Chen, Gao, Liu, Peng &
Wang (2023), "Boundary Unlearning", CVPR 2023, arXiv:2303.11570.

    L(θ, w) = E_{x∈F} ℓ([z_θ(x), wᵀh_θ(x)]; K + 1);    afterwards the output K + 1 is removed

F forget set, z_θ the K logits, h_θ the features that enter the head, w the weights (and bias) of a shadow class, ℓ cross-entropy
over K + 1 classes.
Needs:    forget.     Updates: every trainable parameter, and w.
Cost:     one forward/backward on F per step. No retained data.
Limits:   without steps it is the original. The removed output leaves the K logits as they were trained.
Fails by: the same drift as every forget-only method: lr decides between no effect and collapse. What is left once the shadow
          class is gone need not be far from the true label. Made for whole classes.
Deviations: w starts as a linear layer does. Ports of the official code keep K + 1 outputs; here the model ends with K.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.errors import ModelError
from lethe.maths.losses import cross_entropy
from lethe.train.loop import Loop, Term


@config
class BoundaryExpand:
    """Options of Boundary Expanding."""

    lr: Positive = 2e-4                # SGD; the knob: above collapse                       [ours, digits CNN; paper 1e-5–1e-2]
    epochs: Positive = 10.0            # passes over F                                       [paper]
    batch_size: Count = 64             # examples per step                                   [official code]
    optimiser: Optimiser = "sgd"       # update rule                                         [official code]
    weight_decay: NonNegative = 0.0    # pull towards 0                                      [ours: no retain term to answer it]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]


def expanded(logits: Tensor, features: Tensor, w: Tensor) -> Tensor:
    """The logits with that of the shadow class; the last entry of w is its bias.  [n, K], [n, d], [d + 1] -> [n, K + 1]

    expanded([[1, 2]], [[3, 4]], [1, 0.5, −1]) == [[1, 2, 4]]: 3 + 2 − 1.
    """
    return torch.cat([logits, (features @ w[:-1] + w[-1]).unsqueeze(-1)], -1)


@method(needs={"forget"}, uses={"forward", "head", "labels"}, mechanism="relabel")
def run(cfg: BoundaryExpand, task: ClassificationTask, loop: Loop) -> Outcome:
    model = loop.start()
    name: str = task.head
    head = model.get_submodule(name)
    if not isinstance(head, nn.Linear):
        raise ModelError(f"the head {name!r} is a {type(head).__name__}, and Boundary Expanding widens a linear layer; nothing "
                         "was changed. Name it: model.head.")
    width = head.in_features
    start = torch.rand(width + 1, generator=loop.generator("boundary-expand")).mul(2).sub(1) / width**0.5
    head.register_parameter("shadow", nn.Parameter(start.to(head.weight)))
    loop.include(model, f"{name}.shadow")

    def loss(m: nn.Module, batch: Batch) -> Tensor:
        logits, features = task.forward(m, batch)
        wide = expanded(logits, features, m.get_parameter(f"{name}.shadow"))
        return cross_entropy(wide, torch.full_like(batch.y, logits.shape[-1]))

    loop.minimise(model, {"forget": Term(task.forget, loss)}, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip)
    del head.shadow
    return loop.finish(model)
